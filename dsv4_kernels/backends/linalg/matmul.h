/* acc += a @ b for one pair of operand types. matmul.c includes this once for each, with
 *
 *   MATMUL     the function's name
 *   OPERAND    an element of a and b
 *   WIDE       what a chunk's products are summed in
 *   SUM        an element of acc
 *   WIDEN(x)   an operand as WIDE, exactly
 *
 * A block is ROWS rows by VECTORS vectors of columns, its sums all in registers: per step of k a row
 * costs one broadcast and each vector one load for ROWS * VECTORS multiply-adds. */
#define PASTE(a, b) a##b
#define NAME(prefix, name) PASTE(prefix, name)
#define LANES ((int)(VECTOR_BYTES / sizeof(WIDE)))
#define COLUMNS (VECTORS * LANES)
#define wide_vector NAME(MATMUL, _wide_vector)
#define sum_vector NAME(MATMUL, _sum_vector)
#define widen_rows NAME(MATMUL, _widen_rows)
#define widen_columns NAME(MATMUL, _widen_columns)
#define add_block NAME(MATMUL, _add_block)

typedef WIDE wide_vector __attribute__((vector_size(VECTOR_BYTES)));
typedef SUM sum_vector __attribute__((vector_size(LANES * sizeof(SUM))));

/* Rows of a, [height][CHUNK]. zero[i / ROWS]: whether a block's rows hold nothing but zeros. */
static void widen_rows(const OPERAND *a, const int64_t *stride, int64_t height, int64_t length,
                       WIDE (*rows)[CHUNK], int *zero) {
    for (int64_t i = 0; i < height; ++i) {
        const OPERAND *from = a + i * stride[0];
        int all_zero = 1;
        for (int64_t k = 0; k < length; ++k) {
            rows[i][k] = WIDEN(from[k * stride[1]]);
            all_zero &= rows[i][k] == 0;
        }
        zero[i / ROWS] = all_zero && (i % ROWS == 0 || zero[i / ROWS]);
    }
}

/* Columns of b, [length][COLUMNS], read along whichever way lies contiguous. Returns whether all
 * are finite. */
static int widen_columns(const OPERAND *b, const int64_t *stride, int64_t width, int64_t length,
                         WIDE *columns) {
    int finite = 1;
    if (stride[1] == 1 && width == COLUMNS) {
        for (int64_t k = 0; k < length; ++k)
            for (int64_t j = 0; j < COLUMNS; ++j) {
                const WIDE x = columns[k * COLUMNS + j] = WIDEN(b[k * stride[0] + j]);
                finite &= x - x == 0;
            }
        return finite;
    }
    for (int64_t j = 0; j < width; ++j)
        for (int64_t k = 0; k < length; ++k) {
            const WIDE x = columns[k * COLUMNS + j] = WIDEN(b[k * stride[0] + j * stride[1]]);
            finite &= x - x == 0;
        }
    return finite;
}

/* One block of acc, of which only height x width are there. */
static void add_block(const WIDE (*rows)[CHUNK], const wide_vector *columns, int64_t length,
                      SUM *acc, int64_t stride, int64_t height, int64_t width) {
    wide_vector partial[ROWS][VECTORS];
    for (int i = 0; i < ROWS; ++i)
        for (int v = 0; v < VECTORS; ++v) partial[i][v] = (wide_vector){0};
    for (int64_t k = 0; k < length; ++k)
        for (int i = 0; i < ROWS; ++i)
            for (int v = 0; v < VECTORS; ++v)
                partial[i][v] += rows[i][k] * columns[k * VECTORS + v];

    if (height >= ROWS && width >= COLUMNS) {
        for (int i = 0; i < ROWS; ++i)
            for (int v = 0; v < VECTORS; ++v) {
                sum_vector sum;
                memcpy(&sum, acc + i * stride + v * LANES, sizeof sum);
                sum += __builtin_convertvector(partial[i][v], sum_vector);
                memcpy(acc + i * stride + v * LANES, &sum, sizeof sum);
            }
        return;
    }
    WIDE edge[ROWS][COLUMNS]; /* a copy: what is indexed by a variable is in no register */
    for (int i = 0; i < ROWS; ++i)
        for (int v = 0; v < VECTORS; ++v)
            memcpy(edge[i] + v * LANES, &partial[i][v], sizeof partial[i][v]);
    for (int i = 0; i < ROWS && i < height; ++i)
        for (int j = 0; j < COLUMNS && j < width; ++j) acc[i * stride + j] += (SUM)edge[i][j];
}

void NAME(_mlir_ciface_, MATMUL)(const matrix *a, const matrix *b, const matrix *acc) {
    const int64_t M = a->size[0], K = a->size[1], N = b->size[1];
    const OPERAND *a_at = (const OPERAND *)a->aligned + a->offset;
    const OPERAND *b_at = (const OPERAND *)b->aligned + b->offset;
    SUM *acc_at = (SUM *)acc->aligned + acc->offset;
    WIDE rows[BLOCKS * ROWS][CHUNK];
    int zero[BLOCKS];
    wide_vector columns[CHUNK * VECTORS];
    memset(columns, 0, sizeof columns); /* what lies beyond a narrow b is multiplied, not stored */

    for (int64_t i0 = 0; i0 < M; i0 += BLOCKS * ROWS)
        for (int64_t k = 0; k < K; k += CHUNK) {
            const int64_t height = M - i0 < BLOCKS * ROWS ? M - i0 : BLOCKS * ROWS;
            const int64_t length = K - k < CHUNK ? K - k : CHUNK;
            widen_rows(a_at + i0 * a->stride[0] + k * a->stride[1], a->stride, height, length,
                       rows, zero);
            for (int64_t j = 0; j < N; j += COLUMNS) {
                const int64_t width = N - j < COLUMNS ? N - j : COLUMNS;
                const int finite =
                    widen_columns(b_at + k * b->stride[0] + j * b->stride[1], b->stride, width,
                                  length, (WIDE *)columns);
                for (int64_t i = 0; i < height; i += ROWS)
                    add_block(rows + i, columns, zero[i / ROWS] && finite ? 0 : length,
                              acc_at + (i0 + i) * acc->stride[0] + j, acc->stride[0], height - i,
                              width);
            }
        }
}

#undef PASTE
#undef NAME
#undef LANES
#undef COLUMNS
#undef wide_vector
#undef sum_vector
#undef widen_rows
#undef widen_columns
#undef add_block
#undef MATMUL
#undef OPERAND
#undef WIDE
#undef SUM
#undef WIDEN
