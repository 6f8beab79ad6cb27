// Storage types of the maps. A value becomes float32 when it is loaded, everything is accumulated in float32,
// and the result is rounded once, to nearest even, when it is stored.
//
// The conversions are written out so that the kernels need no header file where they are compiled.

#ifndef KERNEL
#define KERNEL extern "C" __global__ void
#endif

struct float16 {
    unsigned short bits;
};

struct bfloat16 {
    unsigned short bits;
};

__device__ inline float load(const float* at) { return *at; }

__device__ inline float load(const bfloat16* at) { return __uint_as_float((unsigned)at->bits << 16); }

__device__ inline float load(const float16* at) {
    unsigned sign = (at->bits & 0x8000u) << 16;
    unsigned magnitude = (at->bits & 0x7fffu) << 13;
    if (magnitude >= 0x0f800000u) return __uint_as_float(sign | 0x7f800000u | magnitude);  // infinity, NaN
    // exponents are biased by 15 there and by 127 here; the multiplication also normalises subnormal numbers
    float value = __uint_as_float(magnitude) * 5.192296858534828e33f;  // 2^112
    return __uint_as_float(sign | __float_as_uint(value));
}

__device__ inline void store(float* at, float value) { *at = value; }

__device__ inline void store(bfloat16* at, float value) {
    unsigned x = __float_as_uint(value);
    bool nan = (x & 0x7fffffffu) > 0x7f800000u;
    at->bits = (unsigned short)(nan ? (x >> 16) | 0x40u : (x + 0x7fffu + ((x >> 16) & 1u)) >> 16);
}

__device__ inline void store(float16* at, float value) {
    unsigned x = __float_as_uint(value);
    unsigned sign = (x >> 16) & 0x8000u;
    unsigned bits;
    x &= 0x7fffffffu;
    if (x > 0x7f800000u) {
        bits = 0x7e00u;  // NaN
    } else if (x >= 0x47800000u) {
        bits = 0x7c00u;  // 65536 and above: infinity
    } else if (x < 0x38800000u) {
        // below 2^-14: one step of a subnormal number is the last bit of a float32 near 0.5
        bits = __float_as_uint(__uint_as_float(x) + 0.5f) - 0x3f000000u;
    } else {
        bits = (x - (112u << 23) + 0xfffu + ((x >> 13) & 1u)) >> 13;
    }
    at->bits = (unsigned short)(sign | bits);
}

__device__ inline long long least(long long a, long long b) { return a < b ? a : b; }

__device__ inline long long ceil_div(long long a, long long b) { return (a + b - 1) / b; }
