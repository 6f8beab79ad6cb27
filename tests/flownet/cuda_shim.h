// Enough of CUDA to run a kernel on a CPU. A block's threads are fibers that run one after the other from
// barrier to barrier, forwards or backwards: a result that depends on the order betrays a missing barrier.
#pragma once
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __device__
#define __shared__
#define KERNEL static void

struct Index {
    unsigned x, y, z;
};
static Index threadIdx, blockIdx, blockDim, gridDim;

static float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

static unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

static void atomicAdd(float* at, float value) { *at += value; }

const int SHARED_FLOATS = 48 * 1024 / 4;
const int GUARD_FLOATS = 4096;
const size_t STACK = 64 * 1024;

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[STACK]};
    bool finished;
};

static ucontext_t scheduler;
static Fiber* running;
static std::function<void()> body;

static void __syncthreads() { swapcontext(&running->context, &scheduler); }

static void fiber_main() {
    body();
    running->finished = true;
    swapcontext(&running->context, &scheduler);
}

// false if some threads of the block wait at a barrier that others never reach
static bool run_block(std::vector<Fiber>& fibers, bool backwards) {
    for (Fiber& fiber : fibers) {
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = STACK;
        fiber.finished = false;
        makecontext(&fiber.context, fiber_main, 0);
    }
    size_t finished = 0, count = fibers.size();
    while (finished == 0) {
        for (size_t i = 0; i < count; ++i) {
            size_t thread = backwards ? count - 1 - i : i;
            running = &fibers[thread];
            threadIdx = {unsigned(thread % blockDim.x), unsigned(thread / blockDim.x), 0};
            swapcontext(&scheduler, &running->context);
            finished += running->finished;
        }
    }
    return finished == count;
}

// 0: done. 1: threads diverged at a barrier. 2: wrote beyond the shared memory that was asked for.
static int run_grid(float* shared, size_t shared_bytes, bool backwards) {
    std::vector<Fiber> fibers(blockDim.x * blockDim.y);
    const float poison = std::numeric_limits<float>::quiet_NaN();
    for (blockIdx.y = 0; blockIdx.y < gridDim.y; ++blockIdx.y) {
        for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x) {
            std::fill(shared, shared + SHARED_FLOATS + GUARD_FLOATS, poison);
            if (!run_block(fibers, backwards)) return 1;
            for (int i = shared_bytes / 4; i < SHARED_FLOATS + GUARD_FLOATS; ++i) {
                if (!std::isnan(shared[i])) return 2;
            }
        }
    }
    return 0;
}

template <typename P>
P argument(long long value) {
    if constexpr (std::is_pointer_v<P>) {
        return reinterpret_cast<P>(value);
    } else {
        return P(value);
    }
}

template <typename... P, size_t... I>
void set_body(void (*kernel)(P...), const long long* values, std::index_sequence<I...>) {
    body = [=] { kernel(argument<P>(values[I])...); };
}

template <typename... P>
int run_kernel(
    void (*kernel)(P...), const long long* values, int count, float* shared, size_t bytes, bool backwards) {
    if (count != sizeof...(P)) return 3;
    set_body(kernel, values, std::index_sequence_for<P...>());
    return run_grid(shared, bytes, backwards);
}
