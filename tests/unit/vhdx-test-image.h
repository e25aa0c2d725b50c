/*
 * VHDX unit tests: a whole image with a log, made without the driver
 *
 * The image is small and always the same: a dynamic disk of 4 MiB in blocks of
 * 1 MiB, the first two of which are present.  Tests put log entries into it and
 * say, in a second copy of the file, what it should read as after the replay.
 *
 * offset   what
 * 0        header section; both headers name the log
 * 1 MiB    log
 * 2 MiB    metadata
 * 3 MiB    BAT
 * 4 MiB    blocks 0 and 1, pages 0 to 511
 * 6 MiB    end of the file
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef TESTS_UNIT_VHDX_TEST_IMAGE_H
#define TESTS_UNIT_VHDX_TEST_IMAGE_H

#include "vhdx-test-log.h"

#define IMAGE_SIZE      (6 * MiB)
#define IMAGE_DISK      (4 * MiB)
#define IMAGE_LOG       MiB
#define IMAGE_LOG_SIZE  ((uint32_t)MiB)
#define IMAGE_METADATA  (2 * MiB)
#define IMAGE_BAT       (3 * MiB)
#define IMAGE_BLOCKS    (4 * MiB)
#define IMAGE_PAGES     512
#define IMAGE_LOG_GUID  "21222324-2526-2728-292A-2B2C2D2E2F30"

typedef struct Image {
    uint8_t *file;              /* as it is stored */
    uint8_t *view;              /* as it is after the replay */
} Image;

static inline void image_header(uint8_t *buf, uint64_t sequence,
                                const char *log_guid)
{
    memset(buf, 0, 4096);
    memcpy(buf, "head", 4);
    put_le(buf + 8, sequence, 8);
    put_guid(buf + 16, "01020304-0506-0708-090A-0B0C0D0E0F10");
    put_guid(buf + 32, "11121314-1516-1718-191A-1B1C1D1E1F20");
    put_guid(buf + 48, log_guid);
    put_le(buf + 66, 1, 2);
    put_le(buf + 68, IMAGE_LOG_SIZE, 4);
    put_le(buf + 72, IMAGE_LOG, 8);
    seal(buf, 4096);
}

static inline void image_regions(uint8_t *buf)
{
    memcpy(buf, "regi", 4);
    put_le(buf + 8, 2, 4);
    put_guid(buf + 16, GUID_REGION_BAT);
    put_le(buf + 32, IMAGE_BAT, 8);
    put_le(buf + 40, MiB, 4);
    put_le(buf + 44, 1, 4);
    put_guid(buf + 48, GUID_REGION_METADATA);
    put_le(buf + 64, IMAGE_METADATA, 8);
    put_le(buf + 72, MiB, 4);
    put_le(buf + 76, 1, 4);
    seal(buf, 64 * KiB);
}

/* Add an item of @value, @bytes bytes, to the metadata region @buf. */
static inline void image_item(uint8_t *buf, const char *guid, uint32_t flags,
                              uint64_t value, int bytes)
{
    uint32_t n = get_le(buf + 10, 2);
    uint32_t offset = 64 * KiB + 16 * n;
    uint8_t *entry = buf + 32 + 32 * n;

    put_guid(entry, guid);
    put_le(entry + 16, offset, 4);
    put_le(entry + 20, bytes, 4);
    put_le(entry + 24, flags, 4);
    put_le(buf + offset, value, MIN(bytes, 8));
    put_le(buf + 10, n + 1, 2);
}

static inline Image *image_new(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(9);
    Image *img = g_new(Image, 1);
    uint8_t *f = g_malloc0(IMAGE_SIZE);
    uint8_t *metadata = f + IMAGE_METADATA;

    memcpy(f, "vhdxfile", 8);
    image_header(f + 64 * KiB, 7, IMAGE_LOG_GUID);
    image_header(f + 128 * KiB, 8, IMAGE_LOG_GUID);
    image_regions(f + 192 * KiB);
    image_regions(f + 256 * KiB);
    memcpy(metadata, "metadata", 8);
    image_item(metadata, GUID_FILE_PARAMETERS, 4, MiB, 8);
    image_item(metadata, GUID_DISK_SIZE, 6, IMAGE_DISK, 8);
    image_item(metadata, GUID_DISK_ID, 6, 0x1234, 16);
    image_item(metadata, GUID_LOGICAL_SECTOR, 6, 512, 4);
    image_item(metadata, GUID_PHYSICAL_SECTOR, 6, 4096, 4);
    put_le(f + IMAGE_BAT, IMAGE_BLOCKS + 6, 8);
    put_le(f + IMAGE_BAT + 8, IMAGE_BLOCKS + MiB + 6, 8);
    put_le(f + IMAGE_BAT + 16, 2, 8);
    put_le(f + IMAGE_BAT + 24, 2, 8);
    rand_fill(rand, f + IMAGE_BLOCKS, 2 * MiB);

    img->file = f;
    img->view = g_memdup2(f, IMAGE_SIZE);
    return img;
}

static inline void image_free(Image *img)
{
    g_free(img->file);
    g_free(img->view);
    g_free(img);
}

/* The file offset of page @page of the blocks that are present. */
static inline uint64_t page_at(unsigned page)
{
    return IMAGE_BLOCKS + page * 4096;
}

/* A page whose bytes all depend on @fill, for use until the program ends. */
static inline const uint8_t *page_of(uint8_t fill)
{
    static uint8_t pages[256][4096];

    for (int i = 0; i < 4096; i++) {
        pages[fill][i] = fill ^ (i * 7 + i / 256);
    }
    return pages[fill];
}

/* Put the entry into the log at @pos, round its end; returns where it ends. */
static inline uint32_t log_put(Image *img, uint32_t pos, const EntrySpec *spec,
                               const Update *updates, uint32_t count)
{
    size_t length;
    g_autofree uint8_t *buf = entry_bytes(spec, updates, count, &length);

    g_assert_cmpint(length, <=, IMAGE_LOG_SIZE);
    for (size_t i = 0; i < length; i++) {
        img->file[IMAGE_LOG + (pos + i) % IMAGE_LOG_SIZE] = buf[i];
    }
    return (pos + length) % IMAGE_LOG_SIZE;
}

/* Do to the view what @updates say. */
static inline void view_apply(Image *img, const Update *updates,
                              uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        uint8_t *at = img->view + updates[i].offset;

        if (updates[i].page) {
            memcpy(at, updates[i].page, 4096);
        } else {
            memset(at, 0, updates[i].zeros);
        }
    }
}

#endif
