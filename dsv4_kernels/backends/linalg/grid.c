/* One launch: every program of a grid, on threads that end with it.
 *
 * No thread outlives its launch, so there is nothing for a fork to lose, for an exit to stop or for
 * an interrupt to leave behind: Python takes signals in the thread that called, after this returns,
 * and nothing writes by then. Starting a thread takes some 20 us, a launch milliseconds. */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>

enum { MAX_THREADS = 256 };

typedef struct {
    const void *arguments;
    int32_t size[3];
    _Atomic int64_t next; /* the program that nobody has taken yet */
} grid;

/* Calls the one kernel of this library; signature.py writes it. */
void dsv4_program(const void *arguments, const int32_t size[3], const int32_t program[3]);

static void *take_programs(void *data) {
    grid *g = data;
    const int64_t x = g->size[0], y = g->size[1], all = x * y * g->size[2];
    for (int64_t p; (p = atomic_fetch_add(&g->next, 1)) < all;)
        dsv4_program(g->arguments, g->size,
                     (int32_t[]){(int32_t)(p % x), (int32_t)(p / x % y), (int32_t)(p / (x * y))});
    return 0;
}

void dsv4_launch(const void *arguments, int32_t x, int32_t y, int32_t z, int32_t threads) {
    grid g = {arguments, {x, y, z}, 0};
    const int64_t programs = (int64_t)x * y * z;
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    if (threads > programs) threads = (int32_t)programs;

    pthread_t helpers[MAX_THREADS];
    int started = 0;
    sigset_t all, before; /* signals are for the threads that Python knows */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (started < threads - 1 && !pthread_create(helpers + started, 0, take_programs, &g))
        ++started;
    pthread_sigmask(SIG_SETMASK, &before, 0);

    take_programs(&g); /* all of them, where no thread could be started */
    while (started > 0) pthread_join(helpers[--started], 0);
}
