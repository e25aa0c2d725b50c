/*
 * Fuzz target: libvirt's reader of VHDX images
 *
 * Whatever is in a file: the reader must not crash, hang, or take more than
 * little memory and few reads, and what it says of an image must make sense.
 *
 * An input is that of the driver's fuzz target (tests/fuzz/vhdx-fuzz-input.c),
 * so that tests/fuzz/seeds.py makes seeds for both: the file's size and a seed,
 * 8 bytes each, then pieces of its content, each a head of 32 bytes (offset of
 * 8 bytes at 0, length of 4 bytes at 16) and the bytes.  The seed's low bits
 * choose: all checksums made right (in 15 of 16), a read that fails (in 1 of
 * 16).  With VHDX_FUZZ_SEEDS in the environment each input has to be a good image.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "internal.h"
#include "storage_file_vhdx.h"
#include "virendian.h"
#include "virerror.h"

#define VIR_FROM_THIS VIR_FROM_STORAGE

#define KIB             1024ULL
#define MIB             (1024 * KIB)
#define INPUT_HEADER    16
#define PIECE_HEADER    32

/* What the reader's documentation promises */
#define MAX_READS       10
#define MAX_READ        (64 * KIB)
#define MAX_LOCATOR     MIB

#define NAME            "fuzz-image"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *buf, size_t bytes);
size_t LLVMFuzzerCustomMutator(uint8_t *buf, size_t bytes, size_t most,
                               unsigned int seed);
size_t LLVMFuzzerMutate(uint8_t *buf, size_t bytes, size_t most);

typedef struct {
    const uint8_t *input;
    size_t bytes;
    uint64_t size;
    uint64_t seed;
    size_t reads;
    size_t locators;
    bool failed;
} Image;

/* The two headers and region tables: where they are, and how long */
static const struct {
    uint64_t offset;
    size_t len;
} checked[] = {
    { 64 * KIB, 4 * KIB }, { 128 * KIB, 4 * KIB },
    { 192 * KIB, 64 * KIB }, { 256 * KIB, 64 * KIB },
};

static void G_NORETURN
wrong(const char *what)
{
    fprintf(stderr, "WRONG: %s\n", what);
    abort();
}

static void
no_output(void *opaque G_GNUC_UNUSED,
          virErrorPtr error G_GNUC_UNUSED)
{
}

/* The next piece of an input, or NULL; *pos is 0 at first. */
static const uint8_t *
next_piece(const uint8_t *input,
           size_t bytes,
           size_t *pos,
           size_t *len)
{
    const uint8_t *piece;

    *pos = MAX(*pos, INPUT_HEADER);
    if (bytes < PIECE_HEADER || *pos > bytes - PIECE_HEADER)
        return NULL;

    piece = input + *pos;
    *len = MIN(virReadBufInt32LE(piece + 16), bytes - *pos - PIECE_HEADER);
    *pos += PIECE_HEADER + *len;
    return piece;
}

static void
fill(const Image *image,
     uint64_t offset,
     uint8_t *buf,
     size_t len)
{
    size_t pos = 0;
    const uint8_t *piece;
    size_t bytes;

    memset(buf, 0, len);
    while ((piece = next_piece(image->input, image->bytes, &pos, &bytes))) {
        uint64_t at = virReadBufInt64LE(piece);
        uint64_t from = MAX(at, offset);
        uint64_t to;

        if (at > INT64_MAX)
            continue;
        to = MIN(at + bytes, offset + len);
        if (from < to)
            memcpy(buf + (from - offset), piece + PIECE_HEADER + (from - at), to - from);
    }
}

static void
set_checksum(uint8_t *buf,
             size_t len)
{
    static uint32_t table[256];
    uint32_t crc = ~0U;
    size_t i, j;

    for (i = 0; !table[255] && i < 256; i++) {
        uint32_t row = i;

        for (j = 0; j < 8; j++)
            row = row & 1 ? row >> 1 ^ 0x82f63b78 : row >> 1;
        table[i] = row;
    }

    memset(buf + 4, 0, 4);
    for (i = 0; i < len; i++)
        crc = crc >> 8 ^ table[(uint8_t)crc ^ buf[i]];
    crc = ~crc;
    for (i = 0; i < 4; i++)
        buf[4 + i] = crc >> 8 * i;
}

static ssize_t
read_image(unsigned long long offset,
           char *buf,
           size_t len,
           void *opaque)
{
    Image *image = opaque;
    size_t got;
    size_t i;

    image->reads++;
    image->locators += len > MAX_READ;
    if (image->reads > MAX_READS || len > MAX_LOCATOR || image->locators > 1)
        wrong("too much is read");
    if (offset > INT64_MAX - len)
        wrong("a read beyond what a file can have");
    if (image->failed)
        wrong("another read after one that has failed");

    if ((image->seed & 0xf0) == 0x10 && image->reads > (image->seed >> 8 & 0xf)) {
        image->failed = true;
        virReportError(VIR_ERR_INTERNAL_ERROR, "cannot read " NAME);
        return -1;
    }
    if (offset >= image->size)
        return 0;

    got = MIN(len, image->size - offset);
    fill(image, offset, (uint8_t *)buf, got);
    for (i = 0; (image->seed & 0xf) && i < G_N_ELEMENTS(checked); i++) {
        if (offset == checked[i].offset && got == checked[i].len)
            set_checksum((uint8_t *)buf, got);
    }
    return got;
}

static void
check_parents(char **parents)
{
    size_t i;

    if (!parents[0])
        wrong("a parent without a path");

    for (i = 0; parents[i]; i++) {
        const char *colon = strchr(parents[i], ':');
        const char *slash = strchr(parents[i], '/');

        if (!*parents[i] || strchr(parents[i], '\\') ||
            g_str_has_suffix(parents[i], "/") || (colon && (!slash || colon < slash)))
            wrong("a path that is none");
        if (!g_utf8_validate(parents[i], -1, NULL))
            wrong("a path that is not valid UTF-16 text");
        if (STRPREFIX(parents[i], "/dev/") || STRPREFIX(parents[i], "/proc/"))
            wrong("a path of the system");
        if (i >= 5)
            wrong("too many paths");
    }
}

static void
check_image(const virStorageFileVHDX *vhdx)
{
    if (vhdx->sectorSize != 512 && vhdx->sectorSize != 4096)
        wrong("sector size");
    if (vhdx->blockSize < MIB || vhdx->blockSize > 256 * MIB ||
        !VIR_IS_POW2(vhdx->blockSize))
        wrong("block size");
    if (vhdx->capacity > 64 * MIB * MIB || vhdx->capacity % vhdx->sectorSize)
        wrong("capacity");
    if (vhdx->parents)
        check_parents(vhdx->parents);
}

int
LLVMFuzzerInitialize(int *argc G_GNUC_UNUSED,
                     char ***argv G_GNUC_UNUSED)
{
    if (virErrorInitialize() < 0)
        wrong("libvirt cannot be used");
    virSetErrorFunc(NULL, no_output);
    return 0;
}

int
LLVMFuzzerTestOneInput(const uint8_t *buf,
                       size_t bytes)
{
    g_autoptr(virStorageFileVHDX) vhdx = NULL;
    Image image = { .input = buf, .bytes = bytes };
    uint8_t identifier[8];
    int rc;

    if (bytes < INPUT_HEADER)
        return 0;
    image.size = virReadBufInt64LE(buf);
    image.seed = virReadBufInt64LE(buf + 8);
    fill(&image, 0, identifier, sizeof(identifier));

    virResetLastError();
    rc = virStorageFileVHDXOpen(NAME, read_image, &image, &vhdx);

    if (rc < 0) {
        if (getenv("VHDX_FUZZ_SEEDS"))
            wrong(virGetLastErrorMessage());
        if (vhdx)
            wrong("an error and an image");
        if (!strstr(virGetLastErrorMessage(), NAME))
            wrong("an error that does not name the image");
        return 0;
    }
    if (rc > 0 || !vhdx || virGetLastErrorCode() != VIR_ERR_OK)
        wrong("success without an image, or with an error");
    if (image.failed || memcmp(identifier, "vhdxfile", 8) != 0)
        wrong("success where there was none");
    check_image(vhdx);
    return 0;
}

/* -- Mutation: the same pieces with other content, or any bytes -- */

static uint64_t
any_number(unsigned int *seed,
           uint64_t size)
{
    const uint64_t limits[] = {
        0, 1, 2, 3, 4, 7, 8, 16, 20, 31, 32, 512, 2047, 2048, 4096, 32768, 65535,
        64 * KIB, MIB - 1, MIB, MIB + 1, 2 * MIB, 256 * MIB, 512 * MIB, UINT32_MAX,
        UINT32_MAX - MIB + 1, 1ULL << 31, 64 * MIB * MIB, 64 * MIB * MIB + 512,
        INT64_MAX, INT64_MAX - MIB + 1, 1ULL << 63, UINT64_MAX,
    };
    size_t which = rand_r(seed) % (G_N_ELEMENTS(limits) + 3);

    switch (which) {
    case 0: return size;
    case 1: return size / MIB * MIB;
    case 2: return rand_r(seed) % 256 * MIB;
    }
    return limits[which - 3] + (rand_r(seed) % 8 ? 0 : rand_r(seed) % 5 - 2);
}

static void
store(uint8_t *at,
      uint64_t number,
      size_t len)
{
    size_t i;

    for (i = 0; i < len; i++)
        at[i] = number >> 8 * i;
}

size_t
LLVMFuzzerCustomMutator(uint8_t *buf,
                        size_t bytes,
                        size_t most,
                        unsigned int seed)
{
    size_t count = 0;
    size_t pos = 0;
    size_t len;
    size_t width;
    uint8_t *at;

    if (bytes < INPUT_HEADER || rand_r(&seed) % 8 == 0)
        return LLVMFuzzerMutate(buf, bytes, most);

    while (next_piece(buf, bytes, &pos, &len))
        count++;
    if (count == 0 || rand_r(&seed) % 32 == 0) {
        /* The file's size, or what is done with it */
        store(buf, rand_r(&seed) % 2 ? virReadBufInt64LE(buf)
                                     : any_number(&seed, virReadBufInt64LE(buf)), 8);
        store(buf + 8, rand_r(&seed), 8);
        return bytes;
    }

    pos = 0;
    for (count = 1 + rand_r(&seed) % count; count > 0; count--)
        at = (uint8_t *)next_piece(buf, bytes, &pos, &len);
    if (len == 0 || rand_r(&seed) % 16 == 0) {
        store(at, any_number(&seed, virReadBufInt64LE(buf)), 8);
        return bytes;
    }

    at += PIECE_HEADER;
    if (rand_r(&seed) % 4 == 0) {
        LLVMFuzzerMutate(at, len, len);
        return bytes;
    }
    width = 1 << rand_r(&seed) % 4;
    if (width <= len)
        store(at + rand_r(&seed) % (len / width) * width,
              any_number(&seed, virReadBufInt64LE(buf)), width);
    return bytes;
}
