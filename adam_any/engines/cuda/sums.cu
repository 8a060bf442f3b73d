// The terms of every element added, in float64, as `sums` says: a block of threads works on a block
// of elements, each thread on the sums of two lanes, which it adds at the end. What the threads of a
// block have is left in `args.launched`, and folded by `fold.cu`.

// (elements.cu)

static __device__ void add(
    const Args& args, double* sum, const gradient& at_g$references
) {
    $loads
    $body
    $adds
}

extern "C" __global__ void __launch_bounds__($threads)
$name(const __grid_constant__ Args args) {
    const integer* chunk = args.chunks + 3 * integer(blockIdx.x);
    const integer leaf = chunk[0], start = chunk[1];
    const int n = int(chunk[2]);
    double sums[2][$terms] = {};
    if (args.gradients[leaf] != 0) {
        const integer* state = args.state + $arrays * leaf;
        const gradient* g = global_pointer<gradient>(args.gradients[leaf], start);
        $pointers
        for (int row = 0; row < n; row += $lanes)
            for (int half = 0; half < 2; ++half) {
                const int i = row + half * $threads + int(threadIdx.x);
                if (i < n) add(args, sums[half], g[i]$single);
            }
    }
    double* left = reinterpret_cast<double*>(args.launched) + integer(blockIdx.x) * $terms * $threads;
    for (int k = 0; k < $terms; ++k) left[k * $threads + threadIdx.x] = sums[0][k] + sums[1][k];
}
