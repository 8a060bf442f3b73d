// Sums folded in halves: a thread folds $folded of a run of $run, which lie so far apart. So two
// launches make one of a run, in the order in which halves of all of it would be added.

typedef long long integer;

struct Args {
    const double* from;  // runs of $run
    double* to;          // runs of `row`
    integer row;
    integer apart;    // and the number of threads for a run
    integer threads;  // for all runs
};

// Halves added until one number is left, it is the sum of those of even and of odd places.
template <int number>
static __device__ double folded(const double* from, integer apart) {
    return folded<number / 2>(from, 2 * apart) + folded<number / 2>(from + apart, 2 * apart);
}

template <>
__device__ double folded<1>(const double* from, integer apart) { return *from; }

extern "C" __global__ void __launch_bounds__($threads)
$name(const __grid_constant__ Args args) {
    const integer thread = integer(blockIdx.x) * $threads + threadIdx.x;
    if (thread >= args.threads) return;
    const integer run = thread / args.apart, first = thread % args.apart;
    const double sum = folded<$folded>(args.from + run * $run + first, args.apart);
    args.to[run * args.row + first] = sum;
}
