/* What LLVM's lowering of `memref.copy` calls: copy one strided view into another of the same shape.
 *
 * The descriptor's layout and the symbol's signature are MLIR's C ABI for unranked memrefs
 * (mlir/include/mlir/ExecutionEngine/CRunnerUtils.h): rank, then a pointer to
 * { allocated, aligned, offset, sizes[rank], strides[rank] }. */
#include <stdint.h>
#include <string.h>

enum { MAX_RANK = 8 }; /* Triton tiles have at most five dimensions */

typedef struct {
    int64_t rank;
    void *descriptor;
} unranked_memref;

typedef struct {
    char *allocated;
    char *aligned;
    int64_t offset;
    int64_t sizes_then_strides[];
} ranked_memref;

void memrefCopy(int64_t element_bytes, unranked_memref *source, unranked_memref *destination) {
    const int64_t rank = source->rank;
    const ranked_memref *from = source->descriptor, *to = destination->descriptor;
    const int64_t *size = from->sizes_then_strides;
    const int64_t *from_stride = size + rank, *to_stride = to->sizes_then_strides + rank;
    const char *read = from->aligned + from->offset * element_bytes;
    char *write = to->aligned + to->offset * element_bytes;
    for (int64_t d = 0; d < rank; ++d)
        if (size[d] == 0) return;

    /* The innermost run of elements that is contiguous on both sides moves with one memcpy. */
    int64_t outer = rank, run = 1;
    while (outer > 0 && from_stride[outer - 1] == run && to_stride[outer - 1] == run)
        run *= size[--outer];

    int64_t index[MAX_RANK] = {0};
    for (;;) {
        memcpy(write, read, (size_t)(run * element_bytes));
        int64_t d = outer - 1;
        for (; d >= 0; --d) {
            read += from_stride[d] * element_bytes;
            write += to_stride[d] * element_bytes;
            if (++index[d] < size[d]) break;
            index[d] = 0;
            read -= size[d] * from_stride[d] * element_bytes;
            write -= size[d] * to_stride[d] * element_bytes;
        }
        if (d < 0) return;
    }
}
