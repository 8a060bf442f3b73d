// What a kernel's text needs to be C++ for the CPU: the words of CUDA, accesses that go past the
// caches, the index of a thread as two variables, and the conversions of float16 by the name of the
// instruction that makes them.

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define __global__
#define __device__
#define __grid_constant__
#define __launch_bounds__(threads)
#define __builtin_assume(fact)

struct uint4 { unsigned x, y, z, w; };
template <class T> static T __ldcs(const T* x) { return *x; }
template <class T> static void __stcs(T* x, T y) { *x = y; }

struct Index { unsigned x; };
static thread_local Index blockIdx, threadIdx;

static float __uint_as_float(unsigned bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

static unsigned __float_as_uint(float x) {
    unsigned bits;
    memcpy(&bits, &x, 4);
    return bits;
}

#define CONVERT(operation, to_kind, to, from_kind, from) convert(operation, to, from)

static void convert(const char* operation, float& to, unsigned short from) {
    if (strcmp(operation, "cvt.f32.f16")) abort();
    const int exponent = from >> 10 & 31, fraction = from & 1023;
    double size = exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
    if (exponent == 31) size = fraction ? NAN : INFINITY;
    to = float(from & 0x8000 ? -size : size);
}

static void convert(const char* operation, unsigned short& to, float from) {
    if (strcmp(operation, "cvt.rn.f16.f32")) abort();
    const unsigned sign = __float_as_uint(from) >> 16 & 0x8000;
    const double size = fabs(from);
    int exponent;
    frexp(size, &exponent);
    // The numbers of float16 next to it are so far apart, from 2**-14 down all equally.
    const double step = ldexp(1, exponent < -13 ? -24 : exponent - 11);
    const double near = nearbyint(size / step) * step;
    unsigned bits;
    if (size != size) bits = 0x7fff;
    else if (near >= 65536) bits = 0x7c00;
    else if (near < ldexp(1, -14)) bits = unsigned(ldexp(near, 24));
    else {
        frexp(near, &exponent);
        bits = unsigned(exponent + 14) << 10 | (unsigned(ldexp(near, 11 - exponent)) & 1023);
    }
    to = (unsigned short)(sign | bits);
}
