// Numbers in memory and in the computation, and the argument: what all kernels of a program share.

#ifndef CONVERT
#define CONVERT(operation, to_kind, to, from_kind, from) \
    asm(operation " %0, %1;" : to_kind(to) : from_kind(from))
#endif

typedef $real real;
typedef long long integer;

// The number at a place, in the type of the computation, and a number put there.
static __device__ real value(float x) { return real(x); }
static __device__ real value(double x) { return real(x); }
static __device__ void put(float& place, real x) { place = float(x); }
static __device__ void put(double& place, real x) { place = double(x); }

struct float16 { unsigned short bits; };
static __device__ real value(float16 x) {
    float wide;
    CONVERT("cvt.f32.f16", "=f", wide, "h", x.bits);
    return real(wide);
}
static __device__ void put(float16& place, float x) {
    CONVERT("cvt.rn.f16.f32", "=h", place.bits, "f", x);
}

struct bfloat16 { unsigned short bits; };
static __device__ real value(bfloat16 x) { return real(__uint_as_float(unsigned(x.bits) << 16)); }
static __device__ void put(bfloat16& place, float x) {
    const unsigned bits = __float_as_uint(x);
    const unsigned even = bits + 0x7fff + (bits >> 16 & 1);  // to nearest, ties to even
    place.bits = x != x ? 0x7fff : even >> 16;
}

typedef $gradient gradient;
typedef $parameter parameter;

// A pointer to an element of an array. Each access would find out that this is global memory.
template <class T>
static __device__ T* global_pointer(integer address, integer start) {
    T* x = reinterpret_cast<T*>(address) + start;
    __builtin_assume(__isGlobal(x));
    return x;
}

struct Args {
    const integer* state;   // for each leaf the addresses of its parameter and moments
    const integer* chunks;  // for each block a leaf, the first element, the number of elements
    integer* launched;      // where the launch writes its number
    integer number;
    $scalars
    integer gradients[$capacity];  // for each leaf an address, or 0: not this time
};
static_assert(sizeof(Args) == $size, "as the host packs it");
