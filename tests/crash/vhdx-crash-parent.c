/*
 * VHDX crash test: differencing images
 *
 * The parent says in each of its sectors that it is the parent's, and where it
 * belongs, but for one MiB of five, which is zeros.  A child is made of a new
 * image, by hand: what other programs may leave in one is there, too.  Bits of
 * blocks that are not PARTIALLY_PRESENT are set, blocks read as zeros in each
 * of the ways that there are, blocks have all of their sectors and are
 * PARTIALLY_PRESENT, with what the parent has in them, and free space in the
 * file is full of garbage.
 *
 * An image that is to get a parent has BAT entries that must not mean anything
 * when it has one.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "vhdx-crash.h"
#include "vhdx-test-child.h"

bool parent_has(uint64_t bytes, uint64_t page)
{
    return page * CRASH_PAGE < bytes && page * CRASH_PAGE / MiB % 5 != 4;
}

CrashPage *parent_page(uint64_t bytes, uint64_t page)
{
    static GHashTable *pages;
    CrashPage *found;

    if (!parent_has(bytes, page)) {
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

/* Let the metadata say that there is a parent. */
static void metadata_change(CrashImage *img, const CrashReader *reader)
{
    g_autofree uint8_t *meta = g_malloc(CHILD_METADATA);

    image_read(img, reader->meta_offset, CHILD_METADATA, meta);
    child_metadata(meta);
    image_write(img, reader->meta_offset, CHILD_METADATA, meta);
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
                         const CrashWorkload *w, CrashShape *shape,
                         uint64_t *end, CrashRng *rng)
{
    uint64_t blocks = DIV_ROUND_UP(shape->disk_size, shape->block_size);
    uint64_t chunks = DIV_ROUND_UP(blocks, reader->chunk_ratio);
    bool ones = rng_chance(rng, 30);
    uint8_t page[CRASH_PAGE];

    shape->stale_bits = rng_chance(rng, w->spread ? 90 : 60);
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

/* Let some blocks have all of their sectors, which are as the parent's. */
static void blocks_complete(CrashImage *img, const CrashReader *reader,
                            const CrashWorkload *w, CrashShape *shape,
                            uint64_t *end)
{
    uint64_t bytes = shape->block_size / shape->sector_size / 8;
    g_autofree uint8_t *ones = g_malloc(bytes);

    memset(ones, 0xff, bytes);
    for (uint64_t i = 0; i < w->complete; i++) {
        uint64_t block = i * 512, chunk = block / reader->chunk_ratio;
        uint64_t index = chunk * (reader->chunk_ratio + 1) +
                         reader->chunk_ratio;
        uint64_t first = block * (shape->block_size / CRASH_PAGE);
        uint8_t raw[8];

        image_read(img, reader->bat_offset + index * 8, 8, raw);
        if (!get_le(raw, 8)) {
            put_entry(img, reader, index, *end | 6);
            put_le(raw, *end, 8);
            *end += MiB;
        }
        image_write(img, (get_le(raw, 8) & ~(MiB - 1)) +
                         block % reader->chunk_ratio * bytes, bytes, ones);
        put_entry(img, reader, block + chunk, *end | 7);
        for (uint64_t n = 0; n < shape->block_size / CRASH_PAGE; n++) {
            CrashPage *page = parent_page(shape->parent_size, first + n);

            if (page) {
                image_put(img, *end / CRASH_PAGE + n, page);
            }
        }
        *end += shape->block_size;
    }
    shape->complete = w->complete;
    shape->stale_bits |= w->complete;
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
    if (w->max_mib && rng_chance(rng, 60)) {
        /* It goes on where the child gets longer. */
        shape->parent_size = pages +
                             rng_below(rng, w->max_mib * MiB / CRASH_PAGE);
    }
    shape->parent_size *= CRASH_PAGE;
    metadata_change(img, reader);
    bitmaps_make(img, reader, w, shape, &end, rng);
    if (!w->spread) {
        blocks_trim(img, reader, shape, &end, rng);
    }
    blocks_complete(img, reader, w, shape, &end);
    if (rng_chance(rng, 60)) {
        uint64_t more = (1 + rng_below(rng, 6)) * MiB;

        if (!w->node.fixed_size) {
            image_spoil(img, end, more);
        }
    } else if (img->size < end) {
        image_truncate(img, end);
    }
}

/* -- Before there is a parent -- */

/* Where some block of @reader is in the file, bytes */
static uint64_t some_place(const CrashReader *reader, CrashRng *rng)
{
    uint64_t blocks = DIV_ROUND_UP(reader->disk_size, reader->block_size);
    uint64_t first = rng_below(rng, blocks), place = 0;

    for (uint64_t i = 0; i < blocks && !place; i++) {
        place = reader_block(reader, (first + i) % blocks);
    }
    return place;
}

/* A value that no entry has in a child; with @place, it may name that. */
static uint64_t odd_value(uint64_t place, CrashRng *rng)
{
    static const unsigned states[] = { 1, 2, 3, 7 };

    return place && rng_chance(rng, 60) ? place | 6 :
           states[rng_below(rng, ARRAY_SIZE(states))];
}

void orphan_make(CrashImage *img, const CrashReader *reader, CrashRng *rng)
{
    uint64_t ratio = reader->chunk_ratio;
    uint64_t blocks = DIV_ROUND_UP(reader->disk_size, reader->block_size);
    uint64_t chunks = DIV_ROUND_UP(blocks, ratio);
    uint64_t last = blocks + chunks - 1;
    uint64_t end = chunks * (ratio + 1), fit = reader->bat_length / 8;
    /* No file ever gets so long. */
    uint64_t nowhere = 16 * TiB;

    img->foreign = true;
    for (uint64_t chunk = 0; chunk < chunks; chunk++) {
        uint64_t bitmap = chunk * (ratio + 1) + ratio;
        bool partial = rng_chance(rng, 50);

        for (uint64_t i = chunk * ratio;
             partial && i < MIN((chunk + 1) * ratio, blocks); i++) {
            uint64_t place = reader_block(reader, i);

            if (place && rng_chance(rng, 50)) {
                put_entry(img, reader, i + chunk, place | 7);
            }
        }
        /* Where that names a place, state 7 is not read as 6. */
        if (bitmap < fit && rng_chance(rng, 60)) {
            uint64_t place = bitmap < last ? some_place(reader, rng) : nowhere;

            put_entry(img, reader, bitmap, odd_value(partial ? 0 : place, rng));
        }
    }
    end = MIN(end - 1, fit);
    for (int i = 0; i < 4 && last < end && rng_chance(rng, 60); i++) {
        put_entry(img, reader, last + rng_below(rng, end - last),
                  odd_value(nowhere, rng));
    }
}
