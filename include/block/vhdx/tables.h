/*
 * VHDX: region tables and metadata items as data
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_TABLES_H
#define BLOCK_VHDX_TABLES_H

#include "block/vhdx/format.h"

extern const VHDXGuid vhdx_region_bat;
extern const VHDXGuid vhdx_region_metadata;
extern const VHDXGuid vhdx_item_file_parameters;
extern const VHDXGuid vhdx_item_disk_size;
extern const VHDXGuid vhdx_item_disk_id;
extern const VHDXGuid vhdx_item_logical_sector;
extern const VHDXGuid vhdx_item_physical_sector;
extern const VHDXGuid vhdx_item_parent_locator;
extern const VHDXGuid vhdx_item_unfinished;

/* -- Region table, section 2.2.3 -- */

typedef struct VHDXRegion {
    VHDXGuid guid;
    uint64_t offset;                /* bytes */
    uint32_t length;                /* bytes */
    uint32_t flags;                 /* bit 0: required */
    uint32_t held;                  /* bytes of it that nothing else may use */
} VHDXRegion;

#define VHDX_REGION_REQUIRED 1

/*
 * Mark the known regions in the table @buf as required, as QEMU's own driver
 * did not; there are programs that refuse that.  Returns whether something has
 * changed; then the checksum is for vhdx_region_table_seal() to set.
 */
bool vhdx_region_table_require(uint8_t *buf);
void vhdx_region_table_seal(uint8_t *buf);

/*
 * Fill @buf, VHDX_REGION_TABLE_SIZE bytes, with @count entries and the
 * checksum.  Known regions are marked as required.
 */
void vhdx_region_table_encode(const VHDXRegion *regions, uint32_t count,
                              uint8_t *buf);

/* Whether signature and checksum of the region table copy @buf are right. */
bool vhdx_region_table_valid(const uint8_t *buf);

/* Whether @region is the BAT's or the metadata's. */
bool vhdx_region_is_known(const VHDXRegion *region);

/*
 * Whether @region is none that this driver reads, and may be ignored.  Nothing
 * that is wrong with its place keeps the image from being read.
 */
bool vhdx_region_is_foreign(const VHDXRegion *region);

/*
 * Read and judge the region table @buf, a valid copy: counts, alignment,
 * duplicates, overlaps with the header section, the log (@log_offset and
 * @log_length, bytes) or each other, unknown required regions; both known
 * regions must be there.  A foreign region whose place is not good holds 0
 * bytes of it.  @regions gets the @count entries, freed by the
 * caller with g_free(); those of the BAT and the metadata are copied to @bat
 * and @metadata.  Returns 0, -ENOTSUP for an unknown required region, or
 * -EINVAL.
 */
int vhdx_region_table_decode(const uint8_t *buf, uint64_t log_offset,
                             uint32_t log_length, VHDXRegion **regions,
                             uint32_t *count, VHDXRegion *bat,
                             VHDXRegion *metadata, Error **errp);

/* -- Metadata region, section 2.6 -- */

#define VHDX_ITEM_USER      1
#define VHDX_ITEM_DISK      2
#define VHDX_ITEM_REQUIRED  4

/* The items of an image without parent, in the order they are written in */
typedef struct VHDXKnownItem {
    const VHDXGuid *guid;
    const char *name;
    uint32_t size;                  /* bytes */
    uint32_t flags;
} VHDXKnownItem;

#define VHDX_KNOWN_ITEMS    5
extern const VHDXKnownItem vhdx_known_items[VHDX_KNOWN_ITEMS];

/* The known items of a metadata region: what an image is. */
typedef struct VHDXParams {
    uint64_t disk_size;             /* bytes */
    uint32_t block_size;            /* bytes */
    uint32_t logical_sector;        /* bytes */
    uint32_t physical_sector;       /* bytes */
    bool leave_allocated;           /* LeaveBlockAllocated: a fixed image */
    bool has_parent;
    VHDXGuid disk_id;
} VHDXParams;

/* An item that is not in VHDXParams, with what it holds */
typedef struct VHDXItemData {
    VHDXGuid guid;
    uint32_t flags;
    uint32_t length;                /* bytes */
    uint8_t *data;
} VHDXItemData;

/* Bytes of the metadata region that the table and known items take. */
#define VHDX_METADATA_USED (VHDX_METADATA_TABLE_SIZE + 40)

/*
 * Fill @buf, VHDX_METADATA_USED bytes and those of @more, with a metadata
 * table, the items of @params, and @more_count others.
 */
void vhdx_metadata_encode(const VHDXParams *params, const VHDXItemData *more,
                          uint32_t more_count, uint8_t *buf);

typedef struct VHDXItem {
    VHDXGuid guid;
    uint32_t offset;                /* bytes from the region's start */
    uint32_t length;                /* bytes */
    uint32_t flags;
} VHDXItem;

/* Fill @buf, VHDX_METADATA_TABLE_SIZE bytes, with a table of @count items. */
void vhdx_metadata_table_encode(const VHDXItem *items, uint32_t count,
                                uint8_t *buf);

/* Fill @item, 8 bytes, with the item File Parameters (section 2.6.2.1). */
void vhdx_file_parameters_encode(const VHDXParams *params, uint8_t *item);

/*
 * Read and judge the metadata table @buf, VHDX_METADATA_TABLE_SIZE bytes, of a
 * region of @region_length bytes: counts, offsets, flags, duplicates, unknown
 * required items.  @items gets the @count entries, freed by the caller with
 * g_free().  Returns 0, -ENOTSUP for an unknown required item, or -EINVAL.
 */
int vhdx_metadata_table_decode(const uint8_t *buf, uint32_t region_length,
                               VHDXItem **items, uint32_t *count,
                               Error **errp);

/* Where the last of @count items ends, bytes from the region's start. */
uint32_t vhdx_metadata_items_end(const VHDXItem *items, uint32_t count);

/* The item @guid of a table, or NULL. */
const VHDXItem *vhdx_metadata_find(const VHDXItem *items, uint32_t count,
                                   const VHDXGuid *guid);

/*
 * Bytes of the known item @guid that vhdx_metadata_item_decode() takes, 0 for
 * an item that it does not know.
 */
uint32_t vhdx_metadata_item_size(const VHDXGuid *guid);

/* The flags that the known item @guid has, 0 for one that is not known. */
uint32_t vhdx_metadata_item_flags(const VHDXGuid *guid);

/*
 * Take the content @buf, vhdx_metadata_item_size() bytes, of the known item
 * @guid into @params.
 */
void vhdx_metadata_item_decode(const VHDXGuid *guid, const uint8_t *buf,
                               VHDXParams *params);

/* Judge @params as a whole.  Returns 0 or -EINVAL. */
int vhdx_params_check(const VHDXParams *params, Error **errp);

#endif
