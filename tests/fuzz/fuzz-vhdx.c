/*
 * VHDX fuzz target: the entry points that libFuzzer calls
 *
 * tests/fuzz/README.md of the driver's own repository tells how to run it.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include <uuid/uuid.h>
#include "qapi/error.h"
#include "qemu/coroutine.h"
#include "qemu/main-loop.h"
#include "vhdx-fuzz.h"

/* What messages go to; libFuzzer may take the real standard error away. */
static int out = STDERR_FILENO;

/* GUIDs are random: the same ones for the same input. */
static CrashRng guid_rng;

void uuid_generate_random(uuid_t guid)
{
    for (int i = 0; i < sizeof(uuid_t); i += 8) {
        uint64_t word = rng_next(&guid_rng);

        memcpy(guid + i, &word, 8);
    }
}

void fuzz_fail(const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    dprintf(out, "== WRONG: ");
    vdprintf(out, format, ap);
    dprintf(out, "\n");
    va_end(ap);
    abort();
}

/* A loop that never ends, as a request of the driver might be. */
static void coroutine_fn hang(void *opaque)
{
    for (;;) {
        g_usleep(1000);
    }
}

/*
 * libFuzzer's time limit is a SIGALRM, which QEMU's main loop blocks, as it
 * takes signals from a descriptor.  Where the loop does not run, nobody would.
 */
static void time_limit_init(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGALRM);
    if (pthread_sigmask(SIG_UNBLOCK, &set, NULL)) {
        fuzz_fail("SIGALRM stays blocked");
    }
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    out = dup(STDERR_FILENO);
    bdrv_init();
    qemu_init_main_loop(&error_abort);
    time_limit_init();
    memory_init();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *buf, size_t bytes)
{
    FuzzInput *in = input_parse(buf, bytes);

    if (getenv("VHDX_FUZZ_HANG")) {
        qemu_coroutine_enter(qemu_coroutine_create(hang, NULL));
    }
    guid_rng.state = in->seed;
    input_use(in);
    input_free(in);
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *buf, size_t bytes, size_t most,
                               unsigned int seed)
{
    CrashRng rng = { crash_mix(seed + 1) };
    FuzzInput *in = input_parse(buf, bytes);

    input_mutate(in, &rng);
    bytes = input_store(in, buf, most);
    input_free(in);
    return bytes;
}
