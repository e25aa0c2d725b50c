/*
 * VHDX crash test: a file's content
 *
 * Pages of 4 KiB in a hash table, counted references, copied when written to.
 * A page that is not in the table was never written, or was cut off: it reads
 * as zeros, or as garbage if the image is of that kind.  There, pages that were
 * zeroed are in the table.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "vhdx-crash.h"

CrashPage *image_page_new(const uint8_t *data)
{
    CrashPage *page = g_new(CrashPage, 1);

    page->refs = 1;
    page->decoded = page->hashed = false;
    if (data) {
        memcpy(page->data, data, CRASH_PAGE);
    } else {
        memset(page->data, 0, CRASH_PAGE);
    }
    return page;
}

void image_page_unref(void *opaque)
{
    CrashPage *page = opaque;

    if (page && !--page->refs) {
        g_free(page);
    }
}

static void *page_key(uint64_t index)
{
    return (void *)(uintptr_t)index;
}

CrashImage *image_new(uint64_t size, bool garbage)
{
    CrashImage *img = g_new(CrashImage, 1);

    *img = (CrashImage) {
        .pages = g_hash_table_new_full(NULL, NULL, NULL, image_page_unref),
        .size = size,
        .garbage = garbage,
    };
    return img;
}

CrashImage *image_copy(const CrashImage *img)
{
    CrashImage *copy = image_new(img->size, img->garbage);
    GHashTableIter iter;
    void *key, *value;

    copy->foreign = img->foreign;
    g_hash_table_iter_init(&iter, img->pages);
    while (g_hash_table_iter_next(&iter, &key, &value)) {
        CrashPage *page = value;

        page->refs++;
        g_hash_table_insert(copy->pages, key, page);
    }
    return copy;
}

void image_free(CrashImage *img)
{
    if (img) {
        g_hash_table_destroy(img->pages);
        g_free(img);
    }
}

static void garbage_fill(uint64_t index, uint8_t *data)
{
    CrashRng rng = { crash_mix(index + 0x6a09e667) };

    for (int i = 0; i < CRASH_PAGE; i += 8) {
        uint64_t word = rng_next(&rng);

        memcpy(data + i, &word, 8);
    }
}

CrashPage *image_page(const CrashImage *img, uint64_t index)
{
    CrashPage *page = g_hash_table_lookup(img->pages, page_key(index));

    if (!page && img->garbage && index * CRASH_PAGE < img->size) {
        page = image_page_new(NULL);
        garbage_fill(index, page->data);
        g_hash_table_insert(img->pages, page_key(index), page);
    }
    return page;
}

/* Page @index, for the caller to change. */
static CrashPage *page_own(CrashImage *img, uint64_t index)
{
    CrashPage *page = image_page(img, index);

    if (!page) {
        page = image_page_new(NULL);
        g_hash_table_insert(img->pages, page_key(index), page);
    } else if (page->refs > 1) {
        page = image_page_new(page->data);
        g_hash_table_replace(img->pages, page_key(index), page);
    }
    page->decoded = page->hashed = false;
    return page;
}

void image_read(const CrashImage *img, uint64_t offset, uint64_t bytes,
                uint8_t *buf)
{
    while (bytes) {
        uint64_t at = offset % CRASH_PAGE;
        uint64_t n = MIN(bytes, CRASH_PAGE - at);
        CrashPage *page = offset < img->size ?
                          image_page(img, offset / CRASH_PAGE) : NULL;

        if (page) {
            memcpy(buf, page->data + at, n);
        } else {
            memset(buf, 0, n);
        }
        offset += n;
        buf += n;
        bytes -= n;
    }
}

/* Where the file gets longer, the last page's rest becomes part of it. */
static void image_reach(CrashImage *img, uint64_t end)
{
    img->size = MAX(img->size, end);
}

void image_write(CrashImage *img, uint64_t offset, uint64_t bytes,
                 const uint8_t *buf)
{
    image_reach(img, offset + bytes);
    while (bytes) {
        uint64_t at = offset % CRASH_PAGE;
        uint64_t n = MIN(bytes, CRASH_PAGE - at);

        if (n == CRASH_PAGE) {
            g_hash_table_replace(img->pages, page_key(offset / CRASH_PAGE),
                                 image_page_new(buf));
        } else {
            memcpy(page_own(img, offset / CRASH_PAGE)->data + at, buf, n);
        }
        offset += n;
        buf += n;
        bytes -= n;
    }
}

void image_put(CrashImage *img, uint64_t index, CrashPage *page)
{
    image_reach(img, (index + 1) * CRASH_PAGE);
    page->refs++;
    g_hash_table_replace(img->pages, page_key(index), page);
}

static void page_zero(CrashImage *img, uint64_t index)
{
    static CrashPage *zeros;

    if (!img->garbage) {
        g_hash_table_remove(img->pages, page_key(index));
        return;
    }
    if (!zeros) {
        zeros = image_page_new(NULL);
    }
    zeros->refs++;
    g_hash_table_replace(img->pages, page_key(index), zeros);
}

typedef struct PageRange {
    uint64_t first;
    uint64_t end;
} PageRange;

static gboolean page_is_within(void *key, void *value, void *opaque)
{
    const PageRange *range = opaque;

    return (uintptr_t)key >= range->first && (uintptr_t)key < range->end;
}

/* Whether @bytes are more pages than @img has, so that these are looked at. */
static bool range_is_long(const CrashImage *img, uint64_t bytes)
{
    return !img->garbage && bytes / CRASH_PAGE > g_hash_table_size(img->pages);
}

void image_zero(CrashImage *img, uint64_t offset, uint64_t bytes)
{
    image_reach(img, offset + bytes);
    if (range_is_long(img, bytes)) {
        PageRange whole = {
            .first = DIV_ROUND_UP(offset, CRASH_PAGE),
            .end = (offset + bytes) / CRASH_PAGE,
        };

        g_hash_table_foreach_remove(img->pages, page_is_within, &whole);
    }
    while (bytes) {
        uint64_t index = offset / CRASH_PAGE;
        uint64_t at = offset % CRASH_PAGE;
        uint64_t n = MIN(bytes, CRASH_PAGE - at);

        if (!at && range_is_long(img, bytes)) {
            /* Only the end is left. */
            n = QEMU_ALIGN_DOWN(bytes, CRASH_PAGE);
        } else if (n == CRASH_PAGE) {
            page_zero(img, index);
        } else if (image_page(img, index)) {
            memset(page_own(img, index)->data + at, 0, n);
        }
        offset += n;
        bytes -= n;
    }
}

void image_spoil(CrashImage *img, uint64_t offset, uint64_t bytes)
{
    uint8_t data[CRASH_PAGE];

    image_reach(img, offset + bytes);
    while (bytes) {
        uint64_t at = offset % CRASH_PAGE;
        uint64_t n = MIN(bytes, CRASH_PAGE - at);

        garbage_fill(~offset, data);
        memcpy(page_own(img, offset / CRASH_PAGE)->data + at, data, n);
        offset += n;
        bytes -= n;
    }
}

static gboolean page_is_behind(void *key, void *value, void *opaque)
{
    return (uintptr_t)key * CRASH_PAGE >= *(uint64_t *)opaque;
}

void image_truncate(CrashImage *img, uint64_t size)
{
    if (size < img->size) {
        g_hash_table_foreach_remove(img->pages, page_is_behind, &size);
        if (size % CRASH_PAGE && image_page(img, size / CRASH_PAGE)) {
            memset(page_own(img, size / CRASH_PAGE)->data + size % CRASH_PAGE,
                   0, CRASH_PAGE - size % CRASH_PAGE);
        }
    }
    img->size = size;
}

uint64_t image_zeros(const CrashImage *img, uint64_t offset, uint64_t bytes)
{
    uint64_t n = 0;

    if (img->garbage) {
        return 0;
    }
    if (range_is_long(img, bytes)) {
        GHashTableIter iter;
        uint64_t first = offset / CRASH_PAGE;
        uint64_t end = DIV_ROUND_UP(offset + bytes, CRASH_PAGE);
        void *key;

        g_hash_table_iter_init(&iter, img->pages);
        while (g_hash_table_iter_next(&iter, &key, NULL)) {
            if ((uintptr_t)key >= first) {
                end = MIN(end, (uintptr_t)key);
            }
        }
        return end == first ? 0 : MIN(end * CRASH_PAGE - offset, bytes);
    }
    while (n < bytes && !g_hash_table_contains(img->pages,
                                               page_key((offset + n) /
                                                        CRASH_PAGE))) {
        n += CRASH_PAGE - (offset + n) % CRASH_PAGE;
    }
    return MIN(n, bytes);
}

static uint64_t page_hash(CrashPage *page)
{
    uint64_t word, h[4] = { 1, 2, 3, 4 };

    if (page->hashed) {
        return page->hash;
    }
    page->hashed = true;
    page->hash = 0;
    if (!buffer_is_zero(page->data, CRASH_PAGE)) {
        for (int i = 0; i < CRASH_PAGE; i += 32) {
            for (int k = 0; k < 4; k++) {
                memcpy(&word, page->data + i + 8 * k, 8);
                h[k] = (h[k] ^ word) * 0x9fb21c651e98df25ULL;
                h[k] ^= h[k] >> 29;
            }
        }
        page->hash = crash_mix(crash_mix(h[0]) + crash_mix(h[1] + 1) * 3 +
                               crash_mix(h[2] + 2) * 5 +
                               crash_mix(h[3] + 3) * 7) | 1;
    }
    return page->hash;
}

uint64_t image_hash(const CrashImage *img)
{
    uint64_t hash = crash_mix(img->size);
    GHashTableIter iter;
    void *key, *value;

    g_hash_table_iter_init(&iter, img->pages);
    while (g_hash_table_iter_next(&iter, &key, &value)) {
        uint64_t page = page_hash(value);

        /* What is not there is something else only in an image of garbage. */
        if (page || img->garbage) {
            hash += crash_mix(page + (uintptr_t)key * 0x9e3779b97f4a7c15ULL);
        }
    }
    return hash;
}

void image_dump(const CrashImage *img, const char *path)
{
    FILE *file = fopen(path, "w");
    GHashTableIter iter;
    void *key, *value;
    bool good = file;

    g_hash_table_iter_init(&iter, img->pages);
    while (good && g_hash_table_iter_next(&iter, &key, &value)) {
        CrashPage *page = value;

        good = fseeko(file, (uintptr_t)key * CRASH_PAGE, SEEK_SET) == 0 &&
               fwrite(page->data, CRASH_PAGE, 1, file) == 1;
    }
    good = good && ftruncate(fileno(file), img->size) == 0;
    if (!file || fclose(file) != 0 || !good) {
        printf("# could not write %s: %s\n", path, strerror(errno));
    }
}
