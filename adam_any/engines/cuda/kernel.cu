// One update of every element of every leaf. `codegen` fills in what begins with a dollar sign.

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

// As many elements as one thread moves at once.
template <class T>
struct alignas(sizeof(T) * $width < 16 ? sizeof(T) * $width : 16) Pack { T at[$width]; };

template <class T>
static __device__ Pack<T>& pack(T* x) { return *reinterpret_cast<Pack<T>*>(x); }

// A pointer to an element of an array. Each access would find out that this is global memory.
template <class T>
static __device__ T* global_pointer(integer address, integer start) {
    T* x = reinterpret_cast<T*>(address) + start;
    __builtin_assume(__isGlobal(x));
    return x;
}

template <class T>
static __device__ bool aligned(T* x) {
    return reinterpret_cast<unsigned long long>(x) % alignof(Pack<T>) == 0;
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

static __device__ void update(
    const Args& args, const gradient& at_g, $references
) {
    $loads
    $body
    $stores
}

extern "C" __global__ void __launch_bounds__($threads)
$name(const __grid_constant__ Args args) {
    const integer* chunk = args.chunks + 3 * integer(blockIdx.x);
    const integer leaf = chunk[0], start = chunk[1];
    const int n = int(chunk[2]);
    if (blockIdx.x == 0 && threadIdx.x == 0) *args.launched = args.number;
    if (args.gradients[leaf] == 0) return;
    const integer* state = args.state + $arrays * leaf;
    gradient* g = global_pointer<gradient>(args.gradients[leaf], start);
    $pointers
    int whole = 0;
    if ($alignment) {
        whole = n - n % $width;
#pragma unroll 1
        for (int i = threadIdx.x * $width; i < whole; i += $threads * $width) {
            const Pack<gradient> pack_g = pack(g + i);
            $packs
#pragma unroll
            for (int k = 0; k < $width; ++k) {
                update(args, pack_g.at[k], $packed);
            }
            $unpacks
        }
    }
#pragma unroll 1
    for (int i = whole + threadIdx.x; i < n; i += $threads) {
        update(args, g[i], $single);
    }
}
