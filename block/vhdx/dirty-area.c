/*
 * VHDX: dirty bitmaps as data
 *
 * All that comes from a file is bounded before it is believed.  A directory
 * that can't be read leaves no bitmap known.  What is wrong with one bitmap's
 * entry makes that one inconsistent: QEMU tells so, and who makes backups makes
 * a full one.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "qemu/cutils.h"
#include "block/vhdx/crc.h"
#include "block/vhdx/dirty-area.h"

#define HEAD_SIGNATURE      "qvhdxbmp"
#define HEAD_CRC_OFFSET     8
#define HEAD_VERSION        1

#define ENTRY_SIZE          16              /* and the name follows */
#define ENTRY_ALIGN         8

#define FLAG_ENABLED        1
#define FLAG_INCONSISTENT   2

/* -- Head -- */

void vhdx_dirty_head_encode(const VHDXDirtyHead *head, uint8_t *buf)
{
    memset(buf, 0, VHDX_PAGE_SIZE);
    memcpy(buf, HEAD_SIGNATURE, 8);
    stw_le_p(buf + 12, HEAD_VERSION);
    vhdx_guid_encode(&head->file_write_guid, buf + 16);
    vhdx_guid_encode(&head->data_write_guid, buf + 32);
    stq_le_p(buf + 48, head->disk_size);
    stl_le_p(buf + 56, head->directory_page);
    stl_le_p(buf + 60, head->directory_bytes);
    stl_le_p(buf + 64, head->directory_crc);
    stl_le_p(buf + 68, head->count);
    stq_le_p(buf + 72, head->stores);
    stl_le_p(buf + HEAD_CRC_OFFSET,
             vhdx_checksum(buf, VHDX_PAGE_SIZE, HEAD_CRC_OFFSET));
}

bool vhdx_dirty_head_found(const uint8_t *buf)
{
    return !memcmp(buf, HEAD_SIGNATURE, 8);
}

uint32_t vhdx_dirty_crc(const uint8_t *buf, size_t bytes)
{
    return ~vhdx_crc_continue(~0U, buf, bytes);
}

/* Whether @count pages from @first on lie between @head and the end. */
static bool in_area(uint32_t first, uint32_t count, uint32_t head,
                    uint32_t pages)
{
    return first > head && first <= pages && count <= pages - first;
}

int vhdx_dirty_head_decode(const uint8_t *buf, uint32_t page, uint32_t pages,
                           VHDXDirtyHead *head, Error **errp)
{
    uint16_t version = lduw_le_p(buf + 12), features = lduw_le_p(buf + 14);

    if ((uint32_t)ldl_le_p(buf + HEAD_CRC_OFFSET) !=
        vhdx_checksum(buf, VHDX_PAGE_SIZE, HEAD_CRC_OFFSET)) {
        error_setg(errp, "Their head has a wrong checksum");
        return -EINVAL;
    }
    if (version != HEAD_VERSION || features) {
        error_setg(errp, "They have version %" PRIu16 " with features 0x%"
                   PRIx16 ", which this version of QEMU does not know", version,
                   features);
        return -ENOTSUP;
    }
    *head = (VHDXDirtyHead) {
        .file_write_guid = vhdx_guid_decode(buf + 16),
        .data_write_guid = vhdx_guid_decode(buf + 32),
        .disk_size = ldq_le_p(buf + 48),
        .directory_page = ldl_le_p(buf + 56),
        .directory_bytes = ldl_le_p(buf + 60),
        .directory_crc = ldl_le_p(buf + 64),
        .count = ldl_le_p(buf + 68),
        .stores = ldq_le_p(buf + 72),
    };
    if (head->count > VHDX_DIRTY_MAX_COUNT) {
        error_setg(errp, "Their number is %" PRIu32 ", which is more than %d",
                   head->count, VHDX_DIRTY_MAX_COUNT);
        return -EINVAL;
    }
    if (head->disk_size > VHDX_MAX_DISK_SIZE) {
        error_setg(errp, "They are of a disk of %" PRIu64 " bytes, more than "
                   "VHDX allows", head->disk_size);
        return -EINVAL;
    }
    if (!head->count) {
        /* The last one has been removed. */
        head->directory_page = head->directory_bytes = 0;
        return 0;
    }
    if (!head->directory_bytes ||
        head->directory_bytes > VHDX_DIRTY_MAX_DIRECTORY ||
        !in_area(head->directory_page, vhdx_dirty_pages(head->directory_bytes),
                 page, pages)) {
        error_setg(errp, "Their directory of %" PRIu32 " bytes on page %" PRIu32
                   " can't be right", head->directory_bytes,
                   head->directory_page);
        return -EINVAL;
    }
    return 0;
}

/* -- Maps -- */

static uint64_t granules(uint64_t disk_size, unsigned granularity)
{
    return DIV_ROUND_UP(disk_size, 1ULL << granularity);
}

uint64_t vhdx_dirty_map_count(uint64_t disk_size, unsigned granularity)
{
    return DIV_ROUND_UP(granules(disk_size, granularity), VHDX_DIRTY_PAGE_BITS);
}

uint64_t vhdx_dirty_bits_bytes(uint64_t disk_size, unsigned granularity)
{
    return DIV_ROUND_UP(granules(disk_size, granularity), 8);
}

void vhdx_dirty_map_encode(const VHDXDirtyMap *map, uint32_t count,
                           uint8_t *buf)
{
    for (uint32_t i = 0; i < count; i++, buf += VHDX_DIRTY_MAP_SIZE) {
        stl_le_p(buf, map[i].page);
        stl_le_p(buf + 4, map[i].crc);
    }
}

int vhdx_dirty_map_decode(const uint8_t *buf, uint32_t count, uint32_t head,
                          uint32_t pages, VHDXDirtyMap *map, Error **errp)
{
    for (uint32_t i = 0; i < count; i++, buf += VHDX_DIRTY_MAP_SIZE) {
        map[i].page = ldl_le_p(buf);
        map[i].crc = ldl_le_p(buf + 4);
        if (map[i].page == VHDX_DIRTY_ZEROS || map[i].page == VHDX_DIRTY_ONES) {
            map[i].crc = 0;
        } else if (!in_area(map[i].page, 1, head, pages)) {
            error_setg(errp, "entry %" PRIu32 " of its map has page %" PRIu32,
                       i, map[i].page);
            return -EINVAL;
        }
    }
    return 0;
}

/* Whether the first @bits bits of @buf are set. */
static bool all_set(const uint8_t *buf, uint32_t bits)
{
    uint32_t bytes = bits / 8;

    if (bits % 8 && buf[bytes] != (1 << bits % 8) - 1) {
        return false;
    }
    return !bytes || (buf[0] == 0xff && !memcmp(buf, buf + 1, bytes - 1));
}

bool vhdx_dirty_page_plain(const uint8_t *buf, uint32_t bits,
                           VHDXDirtyMap *entry)
{
    if (buffer_is_zero(buf, VHDX_PAGE_SIZE)) {
        *entry = (VHDXDirtyMap) { .page = VHDX_DIRTY_ZEROS };
        return true;
    }
    if (all_set(buf, bits)) {
        *entry = (VHDXDirtyMap) { .page = VHDX_DIRTY_ONES };
        return true;
    }
    return false;
}

void vhdx_dirty_page_trim(uint8_t *buf, uint32_t bits)
{
    uint32_t bytes = bits / 8;

    if (bits % 8) {
        buf[bytes++] &= (1 << bits % 8) - 1;
    }
    memset(buf + bytes, 0, VHDX_PAGE_SIZE - bytes);
}

bool vhdx_dirty_page_valid(const uint8_t *buf, uint32_t bits,
                           const VHDXDirtyMap *entry)
{
    uint32_t bytes = bits / 8;

    if (vhdx_dirty_crc(buf, VHDX_PAGE_SIZE) != entry->crc) {
        return false;
    }
    if (bits % 8 && buf[bytes++] >> bits % 8) {
        return false;
    }
    return bytes == VHDX_PAGE_SIZE ||
           buffer_is_zero(buf + bytes, VHDX_PAGE_SIZE - bytes);
}

/* -- Directory -- */

VHDXDirtyBitmap *vhdx_dirty_bitmap_new(const char *name, unsigned granularity)
{
    VHDXDirtyBitmap *bitmap = g_new0(VHDXDirtyBitmap, 1);

    bitmap->name = g_strdup(name);
    bitmap->granularity = granularity;
    return bitmap;
}

void vhdx_dirty_bitmap_free(VHDXDirtyBitmap *bitmap)
{
    if (bitmap) {
        g_free(bitmap->name);
        g_free(bitmap->map);
        g_free(bitmap);
    }
}

static void bitmap_free(void *opaque)
{
    vhdx_dirty_bitmap_free(opaque);
}

GPtrArray *vhdx_dirty_list_new(void)
{
    return g_ptr_array_new_with_free_func(bitmap_free);
}

VHDXDirtyBitmap *vhdx_dirty_list_find(GPtrArray *list, const char *name)
{
    for (guint i = 0; i < list->len; i++) {
        VHDXDirtyBitmap *bitmap = g_ptr_array_index(list, i);

        if (!strcmp(bitmap->name, name)) {
            return bitmap;
        }
    }
    return NULL;
}

uint32_t vhdx_dirty_entry_bytes(size_t name_length)
{
    return ROUND_UP(ENTRY_SIZE + name_length, ENTRY_ALIGN);
}

uint64_t vhdx_dirty_directory_bytes(GPtrArray *list)
{
    uint64_t bytes = 0;

    for (guint i = 0; i < list->len; i++) {
        VHDXDirtyBitmap *bitmap = g_ptr_array_index(list, i);

        bytes += vhdx_dirty_entry_bytes(strlen(bitmap->name));
    }
    return bytes;
}

void vhdx_dirty_directory_encode(GPtrArray *list, uint8_t *buf)
{
    for (guint i = 0; i < list->len; i++) {
        VHDXDirtyBitmap *bitmap = g_ptr_array_index(list, i);
        size_t length = strlen(bitmap->name);
        uint32_t bytes = vhdx_dirty_entry_bytes(length);

        memset(buf, 0, bytes);
        stl_le_p(buf, bytes);
        buf[4] = bitmap->granularity;
        buf[5] = (bitmap->enabled ? FLAG_ENABLED : 0) |
                 (bitmap->inconsistent ? FLAG_INCONSISTENT : 0);
        stw_le_p(buf + 6, length);
        stl_le_p(buf + 8, bitmap->map_page);
        stl_le_p(buf + 12, bitmap->map_crc);
        memcpy(buf + ENTRY_SIZE, bitmap->name, length);
        buf += bytes;
    }
}

/*
 * Read the entry at @buf, of which there are @left bytes.  Returns how many it
 * takes, or 0 where it can't be an entry.
 */
static uint32_t entry_decode(const uint8_t *buf, uint32_t left,
                             const VHDXDirtyHead *head, uint32_t page,
                             uint32_t pages, VHDXDirtyBitmap **bitmap)
{
    uint32_t bytes, length;
    g_autofree char *name = NULL;
    VHDXDirtyBitmap *b;
    uint64_t count;

    if (left < ENTRY_SIZE) {
        return 0;
    }
    bytes = ldl_le_p(buf);
    length = lduw_le_p(buf + 6);
    if (bytes % ENTRY_ALIGN || bytes > left || !length ||
        length > VHDX_DIRTY_MAX_NAME ||
        bytes < vhdx_dirty_entry_bytes(length) ||
        buf[4] < VHDX_DIRTY_MIN_GRANULARITY ||
        buf[4] > VHDX_DIRTY_MAX_GRANULARITY ||
        memchr(buf + ENTRY_SIZE, 0, length)) {
        return 0;
    }
    name = g_strndup((const char *)buf + ENTRY_SIZE, length);
    if (!g_utf8_validate(name, length, NULL)) {
        return 0;
    }
    *bitmap = b = vhdx_dirty_bitmap_new(name, buf[4]);
    b->enabled = buf[5] & FLAG_ENABLED;
    b->map_page = ldl_le_p(buf + 8);
    b->map_crc = ldl_le_p(buf + 12);
    count = vhdx_dirty_map_count(head->disk_size, b->granularity);
    b->inconsistent = buf[5] & ~FLAG_ENABLED ||
                      vhdx_dirty_bits_bytes(head->disk_size, b->granularity) >
                      VHDX_DIRTY_MAX_BITS ||
                      (count &&
                       !in_area(b->map_page,
                                vhdx_dirty_pages(count * VHDX_DIRTY_MAP_SIZE),
                                page, pages));
    b->map_count = b->inconsistent ? 0 : count;
    return bytes;
}

GPtrArray *vhdx_dirty_directory_decode(const uint8_t *buf,
                                       const VHDXDirtyHead *head, uint32_t page,
                                       uint32_t pages, Error **errp)
{
    g_autoptr(GPtrArray) list = vhdx_dirty_list_new();
    uint32_t left = head->directory_bytes;

    if (vhdx_dirty_crc(buf, left) != head->directory_crc) {
        error_setg(errp, "Their directory has a wrong checksum");
        return NULL;
    }
    for (uint32_t i = 0; i < head->count; i++) {
        VHDXDirtyBitmap *bitmap;
        uint32_t bytes = entry_decode(buf, left, head, page, pages, &bitmap);

        if (!bytes) {
            error_setg(errp, "Entry %" PRIu32 " of their directory can't be "
                       "right", i);
            return NULL;
        }
        if (vhdx_dirty_list_find(list, bitmap->name)) {
            error_setg(errp, "Two of them have the name '%s'", bitmap->name);
            vhdx_dirty_bitmap_free(bitmap);
            return NULL;
        }
        g_ptr_array_add(list, bitmap);
        buf += bytes;
        left -= bytes;
    }
    return g_steal_pointer(&list);
}

/* -- Places -- */

uint32_t vhdx_dirty_place(VHDXDirtyPlaces *places, uint32_t count)
{
    uint32_t at = places->next;

    if (places->keep_end > places->keep && at < places->keep_end &&
        at + count > places->keep) {
        at = places->keep_end;
    }
    if (at > places->end || count > places->end - at) {
        return 0;
    }
    places->next = at + count;
    return at;
}
