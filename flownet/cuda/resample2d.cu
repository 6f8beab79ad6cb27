// Backward warping by a flow in pixels, and its derivatives. One thread a pixel of the flow: the sample point
// is computed once for all its channels. Forward and image gradient deal the channels out over blockIdx.y.

// What is read along one axis: one or two corners, their weights, and the weights' slopes by the position.
struct Axis {
    int corners;
    long long index[2];
    float weight[2];
    float slope[2];
};

__device__ inline long long clamped(float position, long long size) {
    // fmaxf turns NaN into 0; the second limit is exact where float32 cannot hold size - 1
    return least((long long)fminf(fmaxf(position, 0.0f), (float)(size - 1)), size - 1);
}

__device__ inline Axis axis_at(float position, long long size, long long bilinear) {
    Axis axis;
    if (bilinear) {
        float low = floorf(position);
        float fraction = position - low;
        axis.corners = 2;
        axis.index[0] = clamped(low, size);
        axis.index[1] = clamped(low + 1.0f, size);
        axis.weight[0] = 1.0f - fraction;
        axis.weight[1] = fraction;
        axis.slope[0] = -1.0f;
        axis.slope[1] = 1.0f;
    } else {
        axis.corners = 1;
        axis.index[0] = clamped(floorf(position + 0.5f), size);
        axis.index[1] = axis.index[0];
        axis.weight[0] = 1.0f;
        axis.weight[1] = 0.0f;
        axis.slope[0] = 0.0f;
        axis.slope[1] = 0.0f;
    }
    return axis;
}

// Calls body(index in the plane, corner of the rows, corner of the columns) for every pixel that is read.
template <typename Body>
__device__ inline void for_each_tap(
    const Axis& rows, const Axis& columns, long long height, long long width, long long kernel_size,
    Body body) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            if (i >= rows.corners || j >= columns.corners) continue;
            for (long long fy = 0; fy < kernel_size; ++fy) {
                const long long row = least(rows.index[i] + fy, height - 1);
                for (long long fx = 0; fx < kernel_size; ++fx) {
                    body(row * width + least(columns.index[j] + fx, width - 1), i, j);
                }
            }
        }
    }
}

// image [batch, channels, height, width], flow [batch, 2, out_height, out_width]
// -> out [batch, channels, out_height, out_width]
KERNEL resample2d_forward(
    const SCALAR* image, const float* flow, SCALAR* out, long long batch, long long channels,
    long long height, long long width, long long out_height, long long out_width, long long kernel_size,
    long long bilinear) {
    long long plane = height * width, out_plane = out_height * out_width;
    long long step = (long long)gridDim.x * blockDim.x;
    for (long long p = (long long)blockIdx.x * blockDim.x + threadIdx.x; p < batch * out_plane; p += step) {
        long long n = p / out_plane, at = p % out_plane;
        const float* vector = flow + 2 * n * out_plane + at;
        Axis rows = axis_at((float)(at / out_width) + vector[out_plane], height, bilinear);
        Axis columns = axis_at((float)(at % out_width) + vector[0], width, bilinear);
        for (long long c = blockIdx.y; c < channels; c += gridDim.y) {
            const SCALAR* pixels = image + (n * channels + c) * plane;
            float sum = -0.0f;  // adding to it changes no value, not even the sign of zero
            for_each_tap(rows, columns, height, width, kernel_size, [&](long long source, int i, int j) {
                sum += load(pixels + source) * (rows.weight[i] * columns.weight[j]);
            });
            store(out + (n * channels + c) * out_plane + at, sum);
        }
    }
}

// grad [batch, channels, out_height, out_width]
// -> adds to grad_image [batch, channels, height, width], float32
KERNEL resample2d_grad_image(
    const SCALAR* grad, const float* flow, float* grad_image, long long batch, long long channels,
    long long height, long long width, long long out_height, long long out_width, long long kernel_size,
    long long bilinear) {
    long long plane = height * width, out_plane = out_height * out_width;
    long long step = (long long)gridDim.x * blockDim.x;
    for (long long p = (long long)blockIdx.x * blockDim.x + threadIdx.x; p < batch * out_plane; p += step) {
        long long n = p / out_plane, at = p % out_plane;
        const float* vector = flow + 2 * n * out_plane + at;
        Axis rows = axis_at((float)(at / out_width) + vector[out_plane], height, bilinear);
        Axis columns = axis_at((float)(at % out_width) + vector[0], width, bilinear);
        for (long long c = blockIdx.y; c < channels; c += gridDim.y) {
            float incoming = load(grad + (n * channels + c) * out_plane + at);
            float* target = grad_image + (n * channels + c) * plane;
            for_each_tap(rows, columns, height, width, kernel_size, [&](long long source, int i, int j) {
                atomicAdd(target + source, incoming * (rows.weight[i] * columns.weight[j]));
            });
        }
    }
}

// grad [batch, channels, out_height, out_width] -> grad_flow [batch, 2, out_height, out_width], float32
KERNEL resample2d_grad_flow(
    const SCALAR* grad, const SCALAR* image, const float* flow, float* grad_flow, long long batch,
    long long channels, long long height, long long width, long long out_height, long long out_width,
    long long kernel_size, long long bilinear) {
    long long plane = height * width, out_plane = out_height * out_width;
    long long step = (long long)gridDim.x * blockDim.x;
    for (long long p = (long long)blockIdx.x * blockDim.x + threadIdx.x; p < batch * out_plane; p += step) {
        long long n = p / out_plane, at = p % out_plane;
        const float* vector = flow + 2 * n * out_plane + at;
        Axis rows = axis_at((float)(at / out_width) + vector[out_plane], height, bilinear);
        Axis columns = axis_at((float)(at % out_width) + vector[0], width, bilinear);
        float grad_u = 0.0f, grad_v = 0.0f;
        for (long long c = 0; c < channels; ++c) {
            float incoming = load(grad + (n * channels + c) * out_plane + at);
            const SCALAR* pixels = image + (n * channels + c) * plane;
            for_each_tap(rows, columns, height, width, kernel_size, [&](long long source, int i, int j) {
                float share = incoming * load(pixels + source);
                grad_u += share * (rows.weight[i] * columns.slope[j]);
                grad_v += share * (rows.slope[i] * columns.weight[j]);
            });
        }
        grad_flow[2 * n * out_plane + at] = grad_u;
        grad_flow[(2 * n + 1) * out_plane + at] = grad_v;
    }
}
