// Correlation of two feature maps over a square of displacements, and its derivatives.
//
// All kernels run blocks of 32 x 8 threads. The 32 lie side by side in a row of the maps, so that global
// memory is read and written in whole lines. Rows and columns below are those of the maps without padding:
// what lies outside is 0, whether it is padding or beyond. A displacement is an index 0..side-1 and stands
// for (index - reach) * stride2 pixels. Offsets into memory are 64 bits wide, positions in a map 32.

#define TILE 32              // threadIdx.x: neighbouring positions of one block
#define GROUPS 8             // threadIdx.y
#define SHIFTS_EACH 3        // forward: displacements along x of one thread
#define CHANNELS_AT_ONCE 16  // forward: channels in shared memory
#define CHANNELS_EACH 4      // backward: channels of one thread
#define SHIFTS_AT_ONCE 32    // backward: displacements along x in shared memory

extern __shared__ float shared[];

__device__ inline float pixel_or_zero(const SCALAR* map, int row, int column, int height, int width) {
    if (row < 0 || row >= height || column < 0 || column >= width) return 0.0f;
    return load(map + (long long)row * width + column);
}

// f1, f2 [batch, channels, height, width] -> out [batch, side * side, out_height, out_width]
//
// A block computes 32 neighbouring outputs for one displacement along y and 24 along x. The parts of the row
// of f1 and of the displaced row of f2 that they read go through shared memory, so a value of f2 is read from
// global memory about `side` times (once for each displacement along y), not side * side times.
KERNEL correlation_forward(
    const SCALAR* f1, const SCALAR* f2, SCALAR* out, long long batch, long long channels, long long height,
    long long width, long long out_height, long long out_width, long long pad_size, long long kernel_size,
    long long max_displacement, long long stride1, long long stride2) {
    const int reach = max_displacement / stride2, side = 2 * reach + 1, shifts = GROUPS * SHIFTS_EACH;
    const int origin = max_displacement - pad_size - kernel_size / 2;  // corner of the first window
    const int step1 = stride1, step2 = stride2;
    const int width1 = (TILE - 1) * step1 + kernel_size, width2 = width1 + (shifts - 1) * step2;
    float* row1 = shared;                              // [CHANNELS_AT_ONCE, width1]
    float* row2 = shared + CHANNELS_AT_ONCE * width1;  // [CHANNELS_AT_ONCE, width2]

    const long long tiles = ceil_div(out_width, TILE), shift_tiles = ceil_div(side, shifts);
    const long long blocks = batch * out_height * side * tiles * shift_tiles;
    for (long long block = blockIdx.x; block < blocks; block += gridDim.x) {
        long long rest = block;
        const int first_shift = rest % shift_tiles * shifts;
        rest /= shift_tiles;
        const int first_x = rest % tiles * TILE;
        rest /= tiles;
        const int dy = rest % side;
        rest /= side;
        const int y = rest % out_height;
        const long long n = rest / out_height;
        const int left1 = first_x * step1 + origin, left2 = left1 + (first_shift - reach) * step2;
        float sum[SHIFTS_EACH] = {};

        for (int ky = 0; ky < kernel_size; ++ky) {
            const int y1 = y * step1 + origin + ky, y2 = y1 + (dy - reach) * step2;
            if (y1 < 0 || y1 >= height || y2 < 0 || y2 >= height) continue;  // the same for the whole block
            for (long long first_c = 0; first_c < channels; first_c += CHANNELS_AT_ONCE) {
                const int count = least(CHANNELS_AT_ONCE, channels - first_c);
                __syncthreads();  // the previous channels have been used
                for (int c = threadIdx.y; c < count; c += GROUPS) {
                    const long long plane = (n * channels + first_c + c) * height * width;
                    for (int i = threadIdx.x; i < width1; i += TILE) {
                        row1[c * width1 + i] = pixel_or_zero(f1 + plane, y1, left1 + i, height, width);
                    }
                    for (int i = threadIdx.x; i < width2; i += TILE) {
                        row2[c * width2 + i] = pixel_or_zero(f2 + plane, y2, left2 + i, height, width);
                    }
                }
                __syncthreads();
                for (int c = 0; c < count; ++c) {
                    for (int kx = 0; kx < kernel_size; ++kx) {
                        const int at = threadIdx.x * step1 + kx;
                        const float value = row1[c * width1 + at];
                        const float* other = row2 + c * width2 + at + threadIdx.y * SHIFTS_EACH * step2;
#pragma unroll
                        for (int s = 0; s < SHIFTS_EACH; ++s) sum[s] += value * other[s * step2];
                    }
                }
            }
        }

        const long long x = first_x + threadIdx.x;
        const float scale = 1.0f / (float)(kernel_size * kernel_size * channels);
        for (int s = 0; s < SHIFTS_EACH; ++s) {
            const int dx = first_shift + threadIdx.y * SHIFTS_EACH + s;
            if (x < out_width && dx < side) {
                const long long channel = (n * side + dy) * side + dx;
                store(out + (channel * out_height + y) * out_width + x, sum[s] * scale);
            }
        }
    }
}

// Sum of `grad` over all outputs whose window covers the pixel (row, column) of f1.
__device__ inline float covering_outputs(
    const SCALAR* grad, int row, int column, int out_height, int out_width, int origin, int kernel_size,
    int stride1) {
    float sum = 0.0f;
    for (int ky = 0; ky < kernel_size; ++ky) {
        const int y = row - origin - ky;
        if (y < 0 || y % stride1 != 0 || y / stride1 >= out_height) continue;
        for (int kx = 0; kx < kernel_size; ++kx) {
            const int x = column - origin - kx;
            if (x < 0 || x % stride1 != 0 || x / stride1 >= out_width) continue;
            sum += load(grad + (long long)(y / stride1) * out_width + x / stride1);
        }
    }
    return sum;
}

// grad [batch, side * side, out_height, out_width], other [batch, channels, height, width]
// -> grad_map [batch, channels, height, width]: the gradient to f1 where `other` is f2 (to_second 0), or to
// f2 where it is f1 (to_second 1).
//
// Gathers, so nothing is added atomically and the result does not change from run to run. A block computes 32
// neighbouring pixels of 32 channels; a displaced row of `other`, and the gradients that weigh it, go through
// shared memory.
KERNEL correlation_backward(
    const SCALAR* grad, const SCALAR* other, SCALAR* grad_map, long long batch, long long channels,
    long long height, long long width, long long out_height, long long out_width, long long pad_size,
    long long kernel_size, long long max_displacement, long long stride1, long long stride2,
    long long to_second) {
    const int reach = max_displacement / stride2, side = 2 * reach + 1;
    const int origin = max_displacement - pad_size - kernel_size / 2, step2 = stride2;
    const int direction = to_second ? -step2 : step2;  // from a pixel to where `other` is read
    const int wide = TILE + (SHIFTS_AT_ONCE - 1) * step2;
    float* weight = shared;                       // [SHIFTS_AT_ONCE, TILE]
    float* row = shared + SHIFTS_AT_ONCE * TILE;  // [GROUPS * CHANNELS_EACH, wide]

    const long long tiles = ceil_div(width, TILE), channel_tiles = ceil_div(channels, GROUPS * CHANNELS_EACH);
    const long long blocks = batch * height * tiles * channel_tiles;
    for (long long block = blockIdx.x; block < blocks; block += gridDim.x) {
        long long rest = block;
        const long long first_c = rest % channel_tiles * GROUPS * CHANNELS_EACH;
        rest /= channel_tiles;
        const int first_x = rest % tiles * TILE;
        rest /= tiles;
        const int y = rest % height;
        const long long n = rest / height;
        const int count = least(GROUPS * CHANNELS_EACH, channels - first_c);
        float sum[CHANNELS_EACH] = {};

        for (int dy = 0; dy < side; ++dy) {
            const int other_y = y + (dy - reach) * direction;
            if (other_y < 0 || other_y >= height) continue;  // the same for the whole block
            for (int first_dx = 0; first_dx < side; first_dx += SHIFTS_AT_ONCE) {
                const int shifts = least(SHIFTS_AT_ONCE, side - first_dx);
                // leftmost column that is read: by the first displacement, by the last where they go left
                const int leftmost_dx = to_second ? first_dx + shifts - 1 : first_dx;
                const int left = first_x + (leftmost_dx - reach) * direction;
                __syncthreads();  // the previous displacements have been used
                for (int s = threadIdx.y; s < shifts; s += GROUPS) {
                    const long long plane = ((n * side + dy) * side + first_dx + s) * out_height * out_width;
                    const int x = first_x + threadIdx.x;
                    const int x1 = to_second ? x + (first_dx + s - reach) * direction : x;
                    weight[s * TILE + threadIdx.x] = covering_outputs(
                        grad + plane, to_second ? other_y : y, x1, out_height, out_width, origin, kernel_size,
                        stride1);
                }
                for (int c = threadIdx.y; c < count; c += GROUPS) {
                    const SCALAR* map = other + (n * channels + first_c + c) * height * width;
                    for (int i = threadIdx.x; i < wide; i += TILE) {
                        row[c * wide + i] = pixel_or_zero(map, other_y, left + i, height, width);
                    }
                }
                __syncthreads();
                for (int s = 0; s < shifts; ++s) {
                    const int at = threadIdx.x + (to_second ? shifts - 1 - s : s) * step2;
#pragma unroll
                    for (int k = 0; k < CHANNELS_EACH; ++k) {
                        const int c = threadIdx.y + k * GROUPS;
                        if (c < count) sum[k] += weight[s * TILE + threadIdx.x] * row[c * wide + at];
                    }
                }
            }
        }

        const long long x = first_x + threadIdx.x;
        const float scale = 1.0f / (float)(kernel_size * kernel_size * channels);
        for (int k = 0; k < CHANNELS_EACH; ++k) {
            const int c = threadIdx.y + k * GROUPS;
            if (c < count && x < width) {
                store(grad_map + ((n * channels + first_c + c) * height + y) * width + x, sum[k] * scale);
            }
        }
    }
}
