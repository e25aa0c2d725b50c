/*
 * VHDX crash test: a second reader of dirty bitmaps
 *
 * Takes the area in the metadata region apart as
 * docs/interop/vhdx-dirty-bitmaps.rst says, byte by byte and without a line of
 * the driver.  Whatever a power cut has left, the head and the directory must
 * be whole; and so must be the maps and pages of each bitmap that counts.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "vhdx-crash-dirty.h"
#include "vhdx-test-util.h"

#define PAGE_BITS   (CRASH_PAGE * 8)

static const uint8_t nil[16];

static void bitmap_free(void *opaque)
{
    CrashBitmap *b = opaque;

    for (uint64_t i = 0; i < b->page_count; i++) {
        image_page_unref(b->pages[i]);
    }
    g_free(b->pages);
    g_free(b->name);
    g_free(b);
}

CrashDirty *dirty_ref(CrashDirty *dirty)
{
    dirty->refs++;
    return dirty;
}

void dirty_unref(CrashDirty *dirty)
{
    if (dirty && !--dirty->refs) {
        g_ptr_array_unref(dirty->list);
        g_free(dirty);
    }
}

CrashBitmap *dirty_find(const CrashDirty *dirty, const char *name)
{
    for (guint i = 0; i < dirty->list->len; i++) {
        CrashBitmap *b = g_ptr_array_index(dirty->list, i);

        if (!strcmp(b->name, name)) {
            return b;
        }
    }
    return NULL;
}

uint8_t bitmap_byte(const CrashBitmap *b, uint64_t index)
{
    CrashPage *page = b->pages[index / CRASH_PAGE];

    return page ? page->data[index % CRASH_PAGE] : 0;
}

/* -- Reading -- */

/* What is known while an area is read */
typedef struct Area {
    const CrashReader *r;
    uint32_t head;                  /* its page */
    uint32_t pages;                 /* of the region */
    GHashTable *taken;              /* pages that something is on */
} Area;

static uint64_t area_offset(const Area *a, uint32_t page)
{
    return a->r->meta_offset + (uint64_t)page * CRASH_PAGE;
}

/* Take pages for @bytes bytes.  Returns whether they are there, and free. */
static bool area_take(Area *a, uint32_t first, uint64_t bytes)
{
    uint64_t count = DIV_ROUND_UP(bytes, CRASH_PAGE);

    if (first <= a->head || first + count > a->pages) {
        return false;
    }
    for (uint64_t i = 0; i < count; i++) {
        if (!g_hash_table_add(a->taken, (void *)(uintptr_t)(first + i))) {
            return false;
        }
    }
    return true;
}

/* A page with the first @count bits set */
static CrashPage *page_of_ones(uint64_t count)
{
    CrashPage *page = image_page_new(NULL);

    for (uint64_t i = 0; i < MIN(count, PAGE_BITS); i++) {
        page->data[i / 8] |= 1 << i % 8;
    }
    return page;
}

/* Page @index of @b is on page @at of the region, with the checksum @crc. */
static char *bits_page(Area *a, CrashBitmap *b, uint64_t index, uint32_t at,
                       uint32_t crc)
{
    uint64_t left = b->granules - index * PAGE_BITS;
    CrashPage *page;

    if (at < 2) {
        b->pages[index] = at ? page_of_ones(left) : NULL;
        return crc ? text("page %" PRIu64 " of bits is none, but has a "
                          "checksum", index) : NULL;
    }
    if (!area_take(a, at, CRASH_PAGE)) {
        return text("page %" PRIu64 " of bits is on page %u", index, at);
    }
    page = reader_page(a->r, area_offset(a, at));
    if (page) {
        page->refs++;
    } else {
        page = image_page_new(NULL);
    }
    b->pages[index] = page;
    if (reader_crc(page->data, CRASH_PAGE) != crc) {
        return text("page %" PRIu64 " of bits has a wrong checksum", index);
    }
    for (uint64_t i = left; i < PAGE_BITS; i++) {
        if (page->data[i / 8] & 1 << i % 8) {
            return text("there is a bit behind the last one");
        }
    }
    return NULL;
}

/* Read the bits of @b, which counts; the directory's entry is @entry. */
static char *bits_read(Area *a, CrashBitmap *b, const uint8_t *entry)
{
    uint32_t at = get_le(entry + 8, 4);
    g_autofree uint8_t *map = NULL;
    uint64_t bytes;
    char *why = NULL;

    b->granules = DIV_ROUND_UP(a->r->disk_size, 1ULL << b->granularity);
    b->page_count = DIV_ROUND_UP(b->granules, PAGE_BITS);
    b->pages = g_new0(CrashPage *, b->page_count);
    bytes = b->page_count * 8;
    if (!area_take(a, at, bytes)) {
        return text("its map is on page %u", at);
    }
    map = g_malloc(bytes);
    reader_read(a->r, area_offset(a, at), bytes, map);
    if (reader_crc(map, bytes) != get_le(entry + 12, 4)) {
        return text("its map has a wrong checksum");
    }
    for (uint64_t i = 0; !why && i < b->page_count; i++) {
        why = bits_page(a, b, i, get_le(map + 8 * i, 4),
                        get_le(map + 8 * i + 4, 4));
    }
    return why;
}

/* Read the directory at @buf, @bytes bytes, which has @count entries. */
static char *directory_read(Area *a, CrashDirty *dirty, const uint8_t *buf,
                            uint64_t bytes, uint32_t count)
{
    uint64_t at = 0;

    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *entry = buf + at;
        uint64_t length = at + 16 <= bytes ? get_le(entry, 4) : 0;
        uint64_t name = length ? get_le(entry + 6, 2) : 0;
        CrashBitmap *b;
        char *why = NULL;

        if (length % 8 || at + length > bytes || !name || name > 1023 ||
            16 + name > length || entry[4] < 9 || entry[4] > 31 ||
            entry[5] > 3) {
            return text("entry %u of the directory of bitmaps is bad", i);
        }
        b = g_new0(CrashBitmap, 1);
        b->name = g_strndup((const char *)entry + 16, name);
        b->granularity = entry[4];
        b->enabled = entry[5] & 1;
        b->counts = dirty->current && !(entry[5] & 2);
        if (dirty_find(dirty, b->name)) {
            why = text("there are two bitmaps '%s'", b->name);
        }
        g_ptr_array_add(dirty->list, b);
        if (!why && b->counts) {
            why = bits_read(a, b, entry);
        }
        if (why) {
            char *more = text("bitmap '%s': %s", b->name, why);

            g_free(why);
            return more;
        }
        at += length;
    }
    return at == bytes ? NULL :
           text("the directory of bitmaps has more bytes than entries");
}

/* Read what the head @buf tells. */
static char *head_read(Area *a, CrashDirty *dirty, const uint8_t *buf)
{
    const CrashReader *r = a->r;
    uint8_t copy[CRASH_PAGE];
    uint32_t first = get_le(buf + 56, 4), bytes = get_le(buf + 60, 4);
    uint32_t count = get_le(buf + 68, 4);
    g_autofree uint8_t *directory = NULL;

    memcpy(copy, buf, CRASH_PAGE);
    memset(copy + 8, 0, 4);
    if (reader_crc(copy, CRASH_PAGE) != get_le(buf + 8, 4) ||
        get_le(buf + 12, 4) != 1 || count > 1024 || bytes > MiB) {
        return text("the head of the bitmaps is bad");
    }
    dirty->current = memcmp(buf + 16, nil, 16) &&
                     !memcmp(buf + 16, r->file_write, 16) &&
                     !memcmp(buf + 32, r->data_write, 16) &&
                     get_le(buf + 48, 8) == r->disk_size;
    if (!count) {
        return NULL;
    }
    if (!area_take(a, first, bytes)) {
        return text("the directory of bitmaps, %u bytes, is on page %u", bytes,
                    first);
    }
    directory = g_malloc(bytes);
    reader_read(r, area_offset(a, first), bytes, directory);
    if (reader_crc(directory, bytes) != get_le(buf + 64, 4)) {
        return text("the directory of bitmaps has a wrong checksum");
    }
    return directory_read(a, dirty, directory, bytes, count);
}

CrashDirty *dirty_read(const CrashReader *r, char **why)
{
    CrashDirty *dirty = g_new0(CrashDirty, 1);
    Area a = { .r = r, .pages = r->meta_length / CRASH_PAGE };
    uint8_t buf[CRASH_PAGE];

    dirty->refs = 1;
    dirty->list = g_ptr_array_new_with_free_func(bitmap_free);
    a.taken = g_hash_table_new(NULL, NULL);
    for (uint64_t at = ROUND_UP(r->items_end, MiB); at < r->meta_length;
         at += MiB) {
        reader_read(r, r->meta_offset + at, CRASH_PAGE, buf);
        if (!memcmp(buf, "qvhdxbmp", 8)) {
            a.head = at / CRASH_PAGE;
            *why = head_read(&a, dirty, buf);
            break;
        }
    }
    g_hash_table_destroy(a.taken);
    return dirty;
}
