/*
 * VHDX crash test: differencing images
 *
 * The parent says in each of its sectors that it is the parent's, and where it
 * belongs.  A child is made of a new image, by hand: what other programs may
 * leave in one is there, too.  Bits of blocks that are not PARTIALLY_PRESENT
 * are set, blocks read as zeros in each of the ways that there are, and free
 * space in the file is full of garbage.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "vhdx-crash.h"
#include "vhdx-test-util.h"

#define GUID_LOCATOR_TYPE   "B04AEFB7-D19E-4A81-B789-25B8E9445913"

CrashPage *parent_page(uint64_t bytes, uint64_t page)
{
    static GHashTable *pages;
    CrashPage *found;

    if (page * CRASH_PAGE >= bytes) {
        return NULL;
    }
    if (!pages) {
        pages = g_hash_table_new(NULL, NULL);
    }
    found = g_hash_table_lookup(pages, (void *)(uintptr_t)page);
    if (!found) {
        found = image_page_new(NULL);
        model_fill_parent(page * CRASH_SECTORS, CRASH_SECTORS, found->data);
        g_hash_table_insert(pages, (void *)(uintptr_t)page, found);
    }
    return found;
}

/* -- Making a child -- */

/* Put @text at @item + @at as UTF-16, and note where that is.  Returns its end. */
static unsigned put_text(uint8_t *item, unsigned at, unsigned note_offset,
                         unsigned note_length, const char *text)
{
    unsigned bytes = strlen(text) * 2;

    for (unsigned i = 0; text[i]; i++) {
        put_le(item + at + i * 2, text[i], 2);
    }
    put_le(item + note_offset, at, 4);
    put_le(item + note_length, bytes, 2);
    return at + bytes;
}

/* Make a Parent Locator.  Returns its length. */
static unsigned put_locator(uint8_t *item)
{
    static const char *const pairs[][2] = {
        { "parent_linkage", "{f88d4d92-6fcc-408d-9bef-9b7c89f15c89}" },
        { "relative_path", ".\\parent.vhdx" },
    };
    unsigned at = 20 + 12 * ARRAY_SIZE(pairs);

    put_guid(item, GUID_LOCATOR_TYPE);
    put_le(item + 16, 0, 2);
    put_le(item + 18, ARRAY_SIZE(pairs), 2);
    for (int i = 0; i < ARRAY_SIZE(pairs); i++) {
        unsigned entry = 20 + 12 * i;

        at = put_text(item, at, entry, entry + 8, pairs[i][0]);
        at = put_text(item, at, entry + 4, entry + 10, pairs[i][1]);
    }
    return at;
}

/* Let the metadata say that there is a parent. */
static void metadata_change(CrashImage *img, const CrashReader *reader)
{
    g_autofree uint8_t *table = g_malloc(65536);
    uint8_t locator[512], flags[4];
    unsigned count, end = 65536, bytes = put_locator(locator);
    uint8_t *entry;

    image_read(img, reader->meta_offset, 65536, table);
    count = get_le(table + 10, 2);
    for (unsigned i = 0; i < count; i++) {
        unsigned at;

        entry = table + 32 + 32 * i;
        at = get_le(entry + 16, 4);
        end = MAX(end, at + get_le(entry + 20, 4));
        if (guid_is(entry, GUID_FILE_PARAMETERS)) {
            put_le(flags, 2, 4);
            image_write(img, reader->meta_offset + at + 4, 4, flags);
        }
    }
    entry = table + 32 + 32 * count;
    put_guid(entry, GUID_PARENT_LOCATOR);
    put_le(entry + 16, end, 4);
    put_le(entry + 20, bytes, 4);
    put_le(entry + 24, 4, 4);
    put_le(table + 10, count + 1, 2);
    image_write(img, reader->meta_offset, 65536, table);
    image_write(img, reader->meta_offset + end, bytes, locator);
}

static void put_entry(CrashImage *img, const CrashReader *reader,
                      uint64_t index, uint64_t entry)
{
    uint8_t raw[8];

    put_le(raw, entry, 8);
    image_write(img, reader->bat_offset + index * 8, 8, raw);
}

/*
 * Let the sector bitmaps of some chunks be there, full of bits; @end is the
 * end of what is in the file.
 */
static void bitmaps_make(CrashImage *img, const CrashReader *reader,
                         CrashShape *shape, uint64_t *end, CrashRng *rng)
{
    uint64_t blocks = DIV_ROUND_UP(shape->disk_size, shape->block_size);
    uint64_t chunks = DIV_ROUND_UP(blocks, reader->chunk_ratio);
    bool ones = rng_chance(rng, 30);
    uint8_t page[CRASH_PAGE];

    shape->stale_bits = rng_chance(rng, 60);
    memset(page, 0xff, sizeof(page));
    for (uint64_t i = 0; shape->stale_bits && i < chunks; i++) {
        if (i && rng_chance(rng, 50)) {
            continue;
        }
        put_entry(img, reader, i * (reader->chunk_ratio + 1) +
                               reader->chunk_ratio, *end | 6);
        for (uint64_t at = 0; at < MiB; at += CRASH_PAGE) {
            if (ones) {
                image_write(img, *end + at, CRASH_PAGE, page);
            } else {
                image_spoil(img, *end + at, CRASH_PAGE);
            }
        }
        *end += MiB;
    }
}

/* Let some blocks read as zeros, and some of them keep a place. */
static void blocks_trim(CrashImage *img, const CrashReader *reader,
                        CrashShape *shape, uint64_t *end, CrashRng *rng)
{
    uint64_t blocks = DIV_ROUND_UP(shape->disk_size, shape->block_size);
    uint64_t first = rng_below(rng, blocks);
    uint64_t count = MIN(rng_below(rng, 4), blocks - first);

    shape->zero_from = first * shape->block_size;
    shape->zero_end = (first + count) * shape->block_size;
    for (uint64_t i = first; i < first + count; i++) {
        unsigned state = 1 + rng_below(rng, 3);
        uint64_t place = 0;

        if (state != 2 && rng_chance(rng, 50)) {
            place = *end;
            image_spoil(img, place, shape->block_size);
            *end += shape->block_size;
        }
        put_entry(img, reader, i + i / reader->chunk_ratio, place | state);
    }
}

void child_make(CrashImage *img, const CrashReader *reader,
                const CrashWorkload *w, CrashShape *shape, CrashRng *rng)
{
    uint64_t pages = shape->disk_size / CRASH_PAGE;
    uint64_t end = shape->payload;

    /* It is shorter, or longer. */
    shape->parent_size = rng_chance(rng, 40) ?
                         pages * 2 / 3 + rng_below(rng, pages / 3 + 1) :
                         pages + rng_below(rng, 256);
    shape->parent_size *= CRASH_PAGE;
    metadata_change(img, reader);
    bitmaps_make(img, reader, shape, &end, rng);
    if (!w->spread) {
        blocks_trim(img, reader, shape, &end, rng);
    }
    if (rng_chance(rng, 60)) {
        uint64_t more = (1 + rng_below(rng, 6)) * MiB;

        if (!w->node.fixed_size) {
            image_spoil(img, end, more);
        }
    } else if (img->size < end) {
        image_truncate(img, end);
    }
}
