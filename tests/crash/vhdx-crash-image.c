/*
 * VHDX crash test: a file's content
 *
 * Pages of 4 KiB in chunks, which are in a hash table: references to both are
 * counted, and both are copied when written to.  A page that is not there was
 * never written, or was cut off: it reads as zeros, or as garbage if the image
 * is of that kind.  There, pages that were zeroed are kept.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "vhdx-crash.h"

#define CHUNK_PAGES     64
#define CHUNK_BYTES     (CHUNK_PAGES * CRASH_PAGE)

struct CrashChunk {
    unsigned refs;
    unsigned count;             /* of pages that are there; not 0 */
    bool hashed;
    uint64_t hash;
    CrashPage *pages[CHUNK_PAGES];
};

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

/* -- Chunks -- */

static void *chunk_key(uint64_t index)
{
    return (void *)(uintptr_t)(index / CHUNK_PAGES);
}

static void chunk_unref(void *opaque)
{
    CrashChunk *chunk = opaque;

    if (!--chunk->refs) {
        for (int i = 0; i < CHUNK_PAGES; i++) {
            image_page_unref(chunk->pages[i]);
        }
        g_free(chunk);
    }
}

/* The chunk with page @index, or NULL. */
static CrashChunk *chunk_find(const CrashImage *img, uint64_t index)
{
    return g_hash_table_lookup(img->chunks, chunk_key(index));
}

/* ... for the caller to change */
static CrashChunk *chunk_own(CrashImage *img, uint64_t index)
{
    CrashChunk *shared = chunk_find(img, index), *chunk = shared;

    if (!shared) {
        chunk = g_new0(CrashChunk, 1);
        chunk->refs = 1;
        g_hash_table_insert(img->chunks, chunk_key(index), chunk);
    } else if (shared->refs > 1) {
        chunk = g_memdup2(shared, sizeof(*shared));
        chunk->refs = 1;
        for (int i = 0; i < CHUNK_PAGES; i++) {
            if (chunk->pages[i]) {
                chunk->pages[i]->refs++;
            }
        }
        g_hash_table_replace(img->chunks, chunk_key(index), chunk);
    }
    chunk->hashed = false;
    return chunk;
}

/* Let @page, of which the caller gives a reference, be number @index. */
static void page_set(CrashImage *img, uint64_t index, CrashPage *page)
{
    CrashChunk *chunk = chunk_own(img, index);
    CrashPage **place = &chunk->pages[index % CHUNK_PAGES];

    chunk->count += !*place;
    img->count += !*place;
    image_page_unref(*place);
    *place = page;
}

static void page_remove(CrashImage *img, uint64_t index)
{
    CrashChunk *chunk = chunk_find(img, index);
    CrashPage **place;

    if (!chunk || !chunk->pages[index % CHUNK_PAGES]) {
        return;
    }
    chunk = chunk_own(img, index);
    place = &chunk->pages[index % CHUNK_PAGES];
    image_page_unref(g_steal_pointer(place));
    img->count--;
    if (!--chunk->count) {
        g_hash_table_remove(img->chunks, chunk_key(index));
    }
}

void image_iter_init(CrashImageIter *iter, const CrashImage *img)
{
    *iter = (CrashImageIter) { 0 };
    g_hash_table_iter_init(&iter->chunks, img->chunks);
}

CrashPage *image_iter_next(CrashImageIter *iter)
{
    void *key, *value;

    for (;;) {
        if (!iter->chunk || ++iter->index % CHUNK_PAGES == 0) {
            if (!g_hash_table_iter_next(&iter->chunks, &key, &value)) {
                return NULL;
            }
            iter->chunk = value;
            iter->index = (uintptr_t)key * CHUNK_PAGES;
        }
        if (iter->chunk->pages[iter->index % CHUNK_PAGES]) {
            return iter->chunk->pages[iter->index % CHUNK_PAGES];
        }
    }
}

/* -- Images -- */

/* What an entry of the table takes, while it grows as well */
#define ENTRY_BYTES     256

uint64_t image_memory(const CrashImage *img)
{
    return img->count * sizeof(CrashPage) +
           g_hash_table_size(img->chunks) * (sizeof(CrashChunk) + ENTRY_BYTES);
}

CrashImage *image_new(uint64_t size, bool garbage)
{
    CrashImage *img = g_new(CrashImage, 1);

    *img = (CrashImage) {
        .chunks = g_hash_table_new_full(NULL, NULL, NULL, chunk_unref),
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

    copy->count = img->count;
    copy->foreign = img->foreign;
    g_hash_table_iter_init(&iter, img->chunks);
    while (g_hash_table_iter_next(&iter, &key, &value)) {
        CrashChunk *chunk = value;

        chunk->refs++;
        g_hash_table_insert(copy->chunks, key, chunk);
    }
    return copy;
}

void image_free(CrashImage *img)
{
    if (img) {
        g_hash_table_destroy(img->chunks);
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
    CrashChunk *chunk = chunk_find(img, index);
    CrashPage *page = chunk ? chunk->pages[index % CHUNK_PAGES] : NULL;

    if (!page && img->garbage && index * CRASH_PAGE < img->size) {
        page = image_page_new(NULL);
        garbage_fill(index, page->data);
        /* It was there all the time. */
        page_set((CrashImage *)img, index, page);
    }
    return page;
}

/* Page @index, for the caller to change. */
static CrashPage *page_own(CrashImage *img, uint64_t index)
{
    CrashPage *page = image_page(img, index);

    if (!page || page->refs > 1 || chunk_find(img, index)->refs > 1) {
        page = image_page_new(page ? page->data : NULL);
        page_set(img, index, page);
    } else {
        chunk_find(img, index)->hashed = false;
    }
    page->decoded = page->hashed = false;
    return page;
}

void image_read(const CrashImage *img, uint64_t offset, uint64_t bytes,
                uint8_t *buf)
{
    while (bytes) {
        uint64_t index = offset / CRASH_PAGE;
        uint64_t at = offset % CRASH_PAGE;
        uint64_t n = MIN(bytes, CRASH_PAGE - at);
        CrashPage *page = NULL;

        if (offset >= img->size || (!img->garbage && !chunk_find(img, index))) {
            n = MIN(bytes, CHUNK_BYTES - offset % CHUNK_BYTES);
        } else {
            page = image_page(img, index);
        }
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
            page_set(img, offset / CRASH_PAGE, image_page_new(buf));
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
    page_set(img, index, page);
}

static void page_zero(CrashImage *img, uint64_t index)
{
    static CrashPage *zeros;

    if (!img->garbage) {
        page_remove(img, index);
        return;
    }
    if (!zeros) {
        zeros = image_page_new(NULL);
    }
    zeros->refs++;
    page_set(img, index, zeros);
}

/* Drop the whole chunks among @bytes bytes: all of an image that has none. */
static void chunks_remove(CrashImage *img, uint64_t offset, uint64_t bytes)
{
    uint64_t first = DIV_ROUND_UP(offset, CHUNK_BYTES);
    uint64_t end = (offset + bytes) / CHUNK_BYTES;
    GHashTableIter iter;
    void *key, *value;

    if (bytes / CHUNK_BYTES <= g_hash_table_size(img->chunks)) {
        for (uint64_t i = first; i < end; i++) {
            CrashChunk *chunk = chunk_find(img, i * CHUNK_PAGES);

            if (chunk) {
                img->count -= chunk->count;
                g_hash_table_remove(img->chunks, (void *)(uintptr_t)i);
            }
        }
        return;
    }
    g_hash_table_iter_init(&iter, img->chunks);
    while (g_hash_table_iter_next(&iter, &key, &value)) {
        if ((uintptr_t)key >= first && (uintptr_t)key < end) {
            img->count -= ((CrashChunk *)value)->count;
            g_hash_table_iter_remove(&iter);
        }
    }
}

void image_zero(CrashImage *img, uint64_t offset, uint64_t bytes)
{
    image_reach(img, offset + bytes);
    if (!img->garbage) {
        chunks_remove(img, offset, bytes);
    }
    while (bytes) {
        uint64_t index = offset / CRASH_PAGE;
        uint64_t at = offset % CRASH_PAGE;
        uint64_t n = MIN(bytes, CRASH_PAGE - at);

        if (!img->garbage && offset % CHUNK_BYTES == 0 &&
            bytes >= CHUNK_BYTES) {
            /* They are dropped: only the end is left. */
            n = QEMU_ALIGN_DOWN(bytes, CHUNK_BYTES);
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

void image_truncate(CrashImage *img, uint64_t size)
{
    uint64_t at = ROUND_UP(size, CRASH_PAGE);

    if (size < img->size) {
        for (; at < img->size && at % CHUNK_BYTES; at += CRASH_PAGE) {
            page_remove(img, at / CRASH_PAGE);
        }
        if (at < img->size) {
            chunks_remove(img, at, ROUND_UP(img->size - at, CHUNK_BYTES));
        }
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
    while (n < bytes) {
        uint64_t at = offset + n;
        CrashChunk *chunk = chunk_find(img, at / CRASH_PAGE);

        if (!chunk) {
            n += CHUNK_BYTES - at % CHUNK_BYTES;
        } else if (!chunk->pages[at / CRASH_PAGE % CHUNK_PAGES]) {
            n += CRASH_PAGE - at % CRASH_PAGE;
        } else {
            break;
        }
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

bool image_page_is_zero(CrashPage *page)
{
    return !page_hash(page);
}

uint64_t image_page_hash(const CrashImage *img, uint64_t index)
{
    CrashPage *page = image_page(img, index);

    return page ? page_hash(page) : 0;
}

static uint64_t chunk_hash(CrashChunk *chunk, uint64_t index, bool garbage)
{
    if (!chunk->hashed) {
        chunk->hashed = true;
        chunk->hash = 0;
        for (int i = 0; i < CHUNK_PAGES; i++) {
            uint64_t page = chunk->pages[i] ? page_hash(chunk->pages[i]) : 0;

            /* What is not there is something else only in one of garbage. */
            if (page || (garbage && chunk->pages[i])) {
                chunk->hash += crash_mix(page + (index * CHUNK_PAGES + i) *
                                         0x9e3779b97f4a7c15ULL);
            }
        }
    }
    return chunk->hash;
}

uint64_t image_hash(const CrashImage *img)
{
    uint64_t hash = crash_mix(img->size);
    GHashTableIter iter;
    void *key, *value;

    g_hash_table_iter_init(&iter, img->chunks);
    while (g_hash_table_iter_next(&iter, &key, &value)) {
        hash += chunk_hash(value, (uintptr_t)key, img->garbage);
    }
    return hash;
}

void image_dump(const CrashImage *img, const char *path)
{
    FILE *file = fopen(path, "w");
    CrashImageIter iter;
    CrashPage *page;
    bool good = file;

    image_iter_init(&iter, img);
    while (good && (page = image_iter_next(&iter))) {
        good = fseeko(file, iter.index * CRASH_PAGE, SEEK_SET) == 0 &&
               fwrite(page->data, CRASH_PAGE, 1, file) == 1;
    }
    good = good && ftruncate(fileno(file), img->size) == 0;
    if (!file || fclose(file) != 0 || !good) {
        printf("# could not write %s: %s\n", path, strerror(errno));
    }
}
