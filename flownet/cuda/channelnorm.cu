// Length of the channel vector at every pixel, and its derivative. One thread a pixel.

// keeps the gradient of a zero vector at 0 instead of NaN
#define EPSILON 1e-9f

__device__ inline float squared_norm(const SCALAR* x, long long channels, long long plane) {
    float sum = 0.0f;
    for (long long c = 0; c < channels; ++c) {
        float value = load(x + c * plane);
        sum += value * value;
    }
    return sum;
}

// x [batch, channels, plane] -> out [batch, 1, plane]
KERNEL channelnorm_forward(
    const SCALAR* x, SCALAR* out, long long batch, long long channels, long long plane) {
    long long step = (long long)gridDim.x * blockDim.x;
    for (long long p = (long long)blockIdx.x * blockDim.x + threadIdx.x; p < batch * plane; p += step) {
        long long first = p / plane * channels * plane + p % plane;
        store(out + p, sqrtf(squared_norm(x + first, channels, plane)));
    }
}

// grad [batch, 1, plane], x [batch, channels, plane] -> grad_x like x
KERNEL channelnorm_backward(
    const SCALAR* grad, const SCALAR* x, SCALAR* grad_x, long long batch, long long channels,
    long long plane) {
    long long step = (long long)gridDim.x * blockDim.x;
    for (long long p = (long long)blockIdx.x * blockDim.x + threadIdx.x; p < batch * plane; p += step) {
        long long first = p / plane * channels * plane + p % plane;
        float factor = load(grad + p) / (sqrtf(squared_norm(x + first, channels, plane)) + EPSILON);
        for (long long c = 0; c < channels; ++c) {
            store(grad_x + first + c * plane, factor * load(x + first + c * plane));
        }
    }
}
