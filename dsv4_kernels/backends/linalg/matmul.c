/* The matmuls that matmul.py calls: acc[i, j] += sum over a chunk of a[i, k] * b[k, j], chunk after
 * chunk, each chunk's sum from zero in ascending k and then rounded once to acc's type.
 *
 * The bytes do not depend on blocks, vectors or the compiler:
 *   - every output has a sum of its own, in ascending k, whatever lies beside it in a register;
 *   - a product is exact in the type of the sum (two bf16 have 16 of fp64's 53 bits and no exponent
 *     out of its range; two int8 have 14 of fp32's 24), so a fused multiply-add rounds where a
 *     product and an addition would: -ffp-contract may do as it likes;
 *   - int8 sums are exact: a chunk of at most 1024 products stays within 2**24;
 *   - a block of zero rows is not multiplied where b is finite: its sum is +0 either way (0 * x is a
 *     zero, and +0 plus a zero of either sign is +0). It is still added: -0 + 0 is +0. */
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
enum { VECTOR_BYTES = 64 };
#elif defined(__AVX__)
enum { VECTOR_BYTES = 32 };
#else
enum { VECTOR_BYTES = 16 };
#endif

/* 12 sums, 2 vectors and a broadcast in the 16 registers of AVX2; enough sums to hide the 4 to 5
 * cycles of two multiply-adds a cycle. BLOCKS: 22 blocks are the 128 rows of a tile, widened once. */
enum { ROWS = 6, VECTORS = 2, BLOCKS = 22 };

/* A rank-2 memref in MLIR's C ABI (mlir/include/mlir/ExecutionEngine/CRunnerUtils.h). */
typedef struct {
    char *allocated;
    char *aligned;
    int64_t offset;
    int64_t size[2];
    int64_t stride[2];
} matrix;

static inline double widened_bf16(uint16_t bits) {
    const uint32_t shifted = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &shifted, sizeof value);
    return value;
}

#define MATMUL matmul_bf16
#define OPERAND uint16_t
#define WIDE double
#define SUM float
#define WIDEN(x) widened_bf16(x)
#include "matmul.h"

_Static_assert(CHUNK <= 1024, "a chunk of int8 products is exact in fp32");
#define MATMUL matmul_i8
#define OPERAND int8_t
#define WIDE float
#define SUM int32_t
#define WIDEN(x) ((float)(x))
#include "matmul.h"
