/*
 * VHDX fuzz target: what its parts share
 *
 * input     an image file as a list of pieces, which is what libFuzzer mutates
 * mutate    changes fields of the format and makes the checksums right again
 * use       opens, checks, reads, repairs and writes; what must hold then
 * memory    how much the driver has allocated
 *
 * The file's content and the protocol node that serves it are those of the
 * crash test, as are its random numbers: see vhdx-crash.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef TESTS_UNIT_VHDX_FUZZ_H
#define TESTS_UNIT_VHDX_FUZZ_H

#include "vhdx-crash.h"

/* Bytes that the pieces of an input may make of a file, all together */
#define FUZZ_MAX_CONTENT    (16 * MiB)

/* Memory that the driver may have: its cache, and as much again as is said */
#define FUZZ_CACHE          (256 * KiB)
#define FUZZ_MEMORY         (64 * MiB)

/* ... and where there are dirty bitmaps, for them: QEMU takes 1/63 more. */
#define FUZZ_DIRTY          (GiB + 32 * MiB)

/* -- fuzz-vhdx.c: what libFuzzer calls, and its own mutator -- */

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *buf, size_t bytes);
size_t LLVMFuzzerCustomMutator(uint8_t *buf, size_t bytes, size_t most,
                               unsigned int seed);
size_t LLVMFuzzerMutate(uint8_t *buf, size_t bytes, size_t most);

/* Say what is wrong and end. */
void G_NORETURN G_GNUC_PRINTF(1, 2) fuzz_fail(const char *format, ...);

/* -- vhdx-fuzz-input.c -- */

/*
 * Some bytes of the file, @count times one after the other.  The number of 64
 * bits at @step_at of them grows by @step each time, if there is one.
 */
typedef struct FuzzPiece {
    uint64_t offset;            /* bytes from the start of the file */
    uint64_t step;
    uint32_t length;            /* bytes at @data */
    uint32_t count;
    uint32_t step_at;
    uint8_t *data;
} FuzzPiece;

/* A file: zeros of a size, and pieces over it, later ones over earlier. */
typedef struct FuzzInput {
    uint64_t size;              /* bytes */
    uint64_t seed;              /* of what is done with the image */
    GPtrArray *pieces;
} FuzzInput;

/* Any bytes are an input; what makes no sense in them is left out. */
FuzzInput *input_parse(const uint8_t *buf, size_t bytes);
void input_free(FuzzInput *in);

/* Store @in in @most bytes, without the pieces that do not fit. */
size_t input_store(const FuzzInput *in, uint8_t *buf, size_t most);

/* The file that @in tells of. */
CrashImage *input_image(const FuzzInput *in);

/* Add a piece with a copy of @data. */
FuzzPiece *input_add(FuzzInput *in, uint64_t offset, const void *data,
                     uint32_t length);

/* Let the file have @data at @offset, in the piece that is there if any. */
void input_poke(FuzzInput *in, uint64_t offset, const void *data,
                uint32_t length);

/* -- vhdx-fuzz-mutate.c -- */

/* Change @in in one or several ways, as @rng says. */
void input_mutate(FuzzInput *in, CrashRng *rng);

/* -- vhdx-fuzz-use.c -- */

/* Do everything with the image @in; does not return if something is wrong. */
void input_use(const FuzzInput *in);

/* -- vhdx-fuzz-memory.c -- */

void memory_init(void);

/*
 * Fail when from now on more memory is allocated than the driver may have, and
 * the content of @img, which grows meanwhile, takes; until memory_unwatch().
 */
void memory_watch(const CrashImage *img);
void memory_unwatch(void);

#endif
