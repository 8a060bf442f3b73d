// What the threads of a block have left, folded in halves: one thread for each run of $threads sums,
// whose first is the result.

typedef long long integer;

struct Args {
    double* left;
    double* results;
    integer runs;
};

extern "C" __global__ void __launch_bounds__($threads)
$name(const __grid_constant__ Args args) {
    const integer run = integer(blockIdx.x) * $threads + threadIdx.x;
    if (run >= args.runs) return;
    double* sum = args.left + run * $threads;
    for (int half = $threads / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) sum[i] += sum[i + half];
    args.results[run] = sum[0];
}
