// One update of every element of every leaf. `codegen` fills in what begins with a dollar sign.

// (elements.cu)

// As many elements as one thread moves at once.
template <class T>
struct alignas(sizeof(T) * $width < 16 ? sizeof(T) * $width : 16) Pack { T at[$width]; };

template <class T>
static __device__ Pack<T>& pack(T* x) { return *reinterpret_cast<Pack<T>*>(x); }

template <class T>
static __device__ bool aligned(T* x) {
    return reinterpret_cast<unsigned long long>(x) % alignof(Pack<T>) == 0;
}

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
