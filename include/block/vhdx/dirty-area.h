/*
 * VHDX: dirty bitmaps as data
 *
 * MS-VHDX knows no dirty bitmaps.  They lie in a part of the metadata region
 * that no item names.  docs/interop/vhdx-dirty-bitmaps.rst specifies it.  Pages
 * have VHDX_PAGE_SIZE bytes; they are numbered from the start of the region.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_DIRTY_AREA_H
#define BLOCK_VHDX_DIRTY_AREA_H

#include "block/vhdx/format.h"

/* Other programs refuse an image with a longer metadata region. */
#define VHDX_METADATA_MAX_LENGTH    (128 * MiB)

/* The head may be at the beginning of each such part of the region. */
#define VHDX_DIRTY_HEAD_PAGES       (MiB / VHDX_PAGE_SIZE)

#define VHDX_DIRTY_MAX_COUNT        1024
#define VHDX_DIRTY_MAX_DIRECTORY    MiB     /* bytes */
#define VHDX_DIRTY_MAX_NAME         1023    /* bytes */
#define VHDX_DIRTY_MIN_GRANULARITY  9       /* log2 of bytes */
#define VHDX_DIRTY_MAX_GRANULARITY  31

/* What all bits of one bitmap take at the most, and those of all */
#define VHDX_DIRTY_MAX_BITS         (512 * MiB)
#define VHDX_DIRTY_MAX_ALL_BITS     GiB

/* So many granules has a page of bits. */
#define VHDX_DIRTY_PAGE_BITS        (VHDX_PAGE_SIZE * 8)

/* The checksum of @bytes bytes of a directory, a map or a page of bits. */
uint32_t vhdx_dirty_crc(const uint8_t *buf, size_t bytes);

/* -- Head -- */

typedef struct VHDXDirtyHead {
    VHDXGuid file_write_guid;       /* what the content belongs to: ... */
    VHDXGuid data_write_guid;       /* ... both nil: to nothing */
    uint64_t disk_size;             /* bytes */
    uint32_t directory_page;
    uint32_t directory_bytes;
    uint32_t directory_crc;
    uint32_t count;                 /* of bitmaps */
    uint64_t stores;
} VHDXDirtyHead;

/* Fill @buf, VHDX_PAGE_SIZE bytes, with @head and its checksum. */
void vhdx_dirty_head_encode(const VHDXDirtyHead *head, uint8_t *buf);

/* Whether @buf, VHDX_PAGE_SIZE bytes, begins as a head does. */
bool vhdx_dirty_head_found(const uint8_t *buf);

/*
 * Read @head from @buf, VHDX_PAGE_SIZE bytes, on page @page of a region of
 * @pages pages.  Returns 0, -ENOTSUP for a version or features that this driver
 * does not know, or -EINVAL.
 */
int vhdx_dirty_head_decode(const uint8_t *buf, uint32_t page, uint32_t pages,
                           VHDXDirtyHead *head, Error **errp);

/* -- Maps: where each page of bits is -- */

/* What stands in place of a page all of whose bits are the same */
#define VHDX_DIRTY_ZEROS    0
#define VHDX_DIRTY_ONES     1

typedef struct VHDXDirtyMap {
    uint32_t page;                  /* or one of the above */
    uint32_t crc;                   /* of the page; 0 for one of the above */
} VHDXDirtyMap;

#define VHDX_DIRTY_MAP_SIZE 8       /* bytes of an entry */

/*
 * How many entries has the map of a bitmap with granules of 2^@granularity
 * bytes, on a disk of @disk_size bytes.  So many bytes of memory its bits take.
 */
uint64_t vhdx_dirty_map_count(uint64_t disk_size, unsigned granularity);
uint64_t vhdx_dirty_bits_bytes(uint64_t disk_size, unsigned granularity);

/* Fill @buf with the @count entries of @map, which take 8 bytes each. */
void vhdx_dirty_map_encode(const VHDXDirtyMap *map, uint32_t count,
                           uint8_t *buf);

/*
 * Read @map from @buf, for a region of @pages pages with the head on page
 * @head.  Returns 0 or -EINVAL.
 */
int vhdx_dirty_map_decode(const uint8_t *buf, uint32_t count, uint32_t head,
                          uint32_t pages, VHDXDirtyMap *map, Error **errp);

/* Leave nothing but the first @bits bits of @buf, VHDX_PAGE_SIZE bytes. */
void vhdx_dirty_page_trim(uint8_t *buf, uint32_t bits);

/*
 * Whether the first @bits bits of @buf, VHDX_PAGE_SIZE bytes with zeros behind
 * them, are all the same, and need no page.  Then @entry tells which.
 */
bool vhdx_dirty_page_plain(const uint8_t *buf, uint32_t bits,
                           VHDXDirtyMap *entry);

/*
 * Whether @buf, VHDX_PAGE_SIZE bytes, is what @entry of the map tells, and has
 * zeros behind the first @bits bits.
 */
bool vhdx_dirty_page_valid(const uint8_t *buf, uint32_t bits,
                           const VHDXDirtyMap *entry);

/* -- Directory -- */

typedef struct VHDXDirtyBitmap {
    char *name;
    unsigned granularity;           /* log2 of bytes, 9 to 31 */
    bool enabled;
    bool inconsistent;              /* what it has is not to be used */
    uint32_t map_page;              /* 0 in an inconsistent one: no map */
    uint32_t map_crc;
    uint32_t map_count;             /* entries; 0 if there is no map */
    VHDXDirtyMap *map;              /* or NULL */
} VHDXDirtyBitmap;

VHDXDirtyBitmap *vhdx_dirty_bitmap_new(const char *name, unsigned granularity);
void vhdx_dirty_bitmap_free(VHDXDirtyBitmap *bitmap);

/* An array of VHDXDirtyBitmap that frees them with it */
GPtrArray *vhdx_dirty_list_new(void);

/* The one called @name of those in @list, or NULL. */
VHDXDirtyBitmap *vhdx_dirty_list_find(GPtrArray *list, const char *name);

/* How many bytes a directory's entry takes, with a name of @length bytes. */
uint32_t vhdx_dirty_entry_bytes(size_t length);

/* How many bytes a directory of @list takes. */
uint64_t vhdx_dirty_directory_bytes(GPtrArray *list);

/* Fill @buf, so many bytes, with the directory of @list. */
void vhdx_dirty_directory_encode(GPtrArray *list, uint8_t *buf);

/*
 * Read the directory of @head at @buf, on a region of @pages pages with the
 * head on page @page: bitmaps without their maps.  One that has unknown flags
 * or a map that can't be right is taken as inconsistent.  Returns an array as
 * vhdx_dirty_list_new() does, or NULL.
 */
GPtrArray *vhdx_dirty_directory_decode(const uint8_t *buf,
                                       const VHDXDirtyHead *head, uint32_t page,
                                       uint32_t pages, Error **errp);

/* -- Places -- */

/*
 * Pages that are free for new content.  Once the image has been changed nothing
 * that the stable head names counts any more.  Only its directory is kept, as
 * it has the names.
 */
typedef struct VHDXDirtyPlaces {
    uint32_t next;                  /* page */
    uint32_t end;
    uint32_t keep;                  /* the first page of that directory */
    uint32_t keep_end;
} VHDXDirtyPlaces;

/* So many pages @bytes bytes take. */
static inline uint32_t vhdx_dirty_pages(uint64_t bytes)
{
    return DIV_ROUND_UP(bytes, VHDX_PAGE_SIZE);
}

/*
 * Take @count pages that follow one another.  Returns the first, or 0 if there
 * are not so many.
 */
uint32_t vhdx_dirty_place(VHDXDirtyPlaces *places, uint32_t count);

#endif
