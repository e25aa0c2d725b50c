/*
 * VHDX fuzz target without libFuzzer: for scripts/run-fuzz-corpus
 *
 * Each file that is named is an input, and so is what the target's mutator
 * makes of it, COUNT times.  How much memory is taken is not looked at, as the
 * hooks for that are the sanitizer's.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "vhdx-fuzz.h"

#define MOST    65536               /* bytes of an input */

void memory_init(void)
{
}

void memory_watch(const CrashImage *img)
{
}

void memory_unwatch(void)
{
}

/* libFuzzer's own changes: none */
size_t LLVMFuzzerMutate(uint8_t *buf, size_t bytes, size_t most)
{
    return bytes;
}

int main(int argc, char **argv)
{
    unsigned count = argc > 1 ? atoi(argv[1]) : 0;

    LLVMFuzzerInitialize(&argc, &argv);
    for (int i = 2; i < argc; i++) {
        uint8_t buf[MOST];
        g_autofree char *content = NULL;
        gsize bytes, n;

        g_assert_true(g_file_get_contents(argv[i], &content, &bytes, NULL));
        LLVMFuzzerTestOneInput((uint8_t *)content, bytes);
        n = MIN(bytes, MOST);
        memcpy(buf, content, n);
        for (unsigned seed = 0; seed < count; seed++) {
            n = LLVMFuzzerCustomMutator(buf, n, MOST, i * count + seed);
            LLVMFuzzerTestOneInput(buf, n);
        }
        printf("ok %s\n", argv[i]);
        fflush(stdout);
    }
    return 0;
}
