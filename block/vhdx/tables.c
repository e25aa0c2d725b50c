/*
 * VHDX: region tables and metadata items as data
 *
 * The region table says where the BAT and the metadata region are; the
 * metadata table says where in that region the items are that tell what the
 * disk is.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "qemu/host-utils.h"
#include "qemu/range.h"
#include "block/vhdx/tables.h"

#define REGION_SIGNATURE        "regi"
#define METADATA_SIGNATURE      "metadata"

#define PARAM_LEAVE_ALLOCATED   1
#define PARAM_HAS_PARENT        2

const VHDXGuid vhdx_region_bat = {
    { 0x2d, 0xc2, 0x77, 0x66, 0xf6, 0x23, 0x42, 0x00,
      0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08 }
};
const VHDXGuid vhdx_region_metadata = {
    { 0x8b, 0x7c, 0xa2, 0x06, 0x47, 0x90, 0x4b, 0x9a,
      0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e }
};
const VHDXGuid vhdx_item_file_parameters = {
    { 0xca, 0xa1, 0x67, 0x37, 0xfa, 0x36, 0x4d, 0x43,
      0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b }
};
const VHDXGuid vhdx_item_disk_size = {
    { 0x2f, 0xa5, 0x42, 0x24, 0xcd, 0x1b, 0x48, 0x76,
      0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8 }
};
const VHDXGuid vhdx_item_disk_id = {
    { 0xbe, 0xca, 0x12, 0xab, 0xb2, 0xe6, 0x45, 0x23,
      0x93, 0xef, 0xc3, 0x09, 0xe0, 0x00, 0xc7, 0x46 }
};
const VHDXGuid vhdx_item_logical_sector = {
    { 0x81, 0x41, 0xbf, 0x1d, 0xa9, 0x6f, 0x47, 0x09,
      0xba, 0x47, 0xf2, 0x33, 0xa8, 0xfa, 0xab, 0x5f }
};
const VHDXGuid vhdx_item_physical_sector = {
    { 0xcd, 0xa3, 0x48, 0xc7, 0x44, 0x5d, 0x44, 0x71,
      0x9c, 0xc9, 0xe9, 0x88, 0x52, 0x51, 0xc5, 0x56 }
};
const VHDXGuid vhdx_item_parent_locator = {
    { 0xa8, 0xd3, 0x5f, 0x2d, 0xb3, 0x0b, 0x45, 0x4d,
      0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c }
};
const VHDXGuid vhdx_item_unfinished = {
    { 0x71, 0xcc, 0x85, 0xf0, 0x1b, 0x69, 0x4e, 0x28,
      0x95, 0x58, 0xc3, 0xbf, 0x83, 0xae, 0x75, 0xd3 }
};

const VHDXKnownItem vhdx_known_items[VHDX_KNOWN_ITEMS] = {
    { &vhdx_item_file_parameters, "File Parameters", 8, VHDX_ITEM_REQUIRED },
    { &vhdx_item_disk_size, "Virtual Disk Size", 8,
      VHDX_ITEM_REQUIRED | VHDX_ITEM_DISK },
    { &vhdx_item_disk_id, "Virtual Disk ID", 16,
      VHDX_ITEM_REQUIRED | VHDX_ITEM_DISK },
    { &vhdx_item_logical_sector, "Logical Sector Size", 4,
      VHDX_ITEM_REQUIRED | VHDX_ITEM_DISK },
    { &vhdx_item_physical_sector, "Physical Sector Size", 4,
      VHDX_ITEM_REQUIRED | VHDX_ITEM_DISK },
};

/*
 * Items that Windows knows beyond the text.  The disk geometry is kept as it
 * is.  An image with a label is one of a persistent memory device.
 */
static const VHDXGuid item_geometry = {
    { 0xda, 0x02, 0xd7, 0xbc, 0x3d, 0x3a, 0x42, 0x3c,
      0xac, 0x88, 0x2a, 0x36, 0xab, 0x21, 0x47, 0x9b }
};
static const VHDXGuid item_memory_label = {
    { 0x10, 0xe1, 0xae, 0x8a, 0x4b, 0x7e, 0x41, 0x69,
      0xa4, 0x0f, 0xcd, 0x70, 0xde, 0x92, 0x83, 0x93 }
};

/* -- Region table -- */

bool vhdx_region_is_known(const VHDXRegion *region)
{
    return vhdx_guid_equal(&region->guid, &vhdx_region_bat) ||
           vhdx_guid_equal(&region->guid, &vhdx_region_metadata);
}

bool vhdx_region_table_require(uint8_t *buf)
{
    uint32_t count = MIN((uint32_t)ldl_le_p(buf + 8), VHDX_MAX_TABLE_ENTRIES);
    bool changed = false;

    for (uint32_t i = 0; i < count; i++) {
        uint8_t *entry = buf + VHDX_REGION_ENTRY(i);
        VHDXRegion region = { .guid = vhdx_guid_decode(entry) };
        uint32_t flags = ldl_le_p(entry + 28);

        if (vhdx_region_is_known(&region) && !(flags & VHDX_REGION_REQUIRED)) {
            stl_le_p(entry + 28, flags | VHDX_REGION_REQUIRED);
            changed = true;
        }
    }
    return changed;
}

void vhdx_region_table_seal(uint8_t *buf)
{
    stl_le_p(buf + VHDX_CHECKSUM_OFFSET,
             vhdx_checksum(buf, VHDX_REGION_TABLE_SIZE, VHDX_CHECKSUM_OFFSET));
}

void vhdx_region_table_encode(const VHDXRegion *regions, uint32_t count,
                              uint8_t *buf)
{
    memset(buf, 0, VHDX_REGION_TABLE_SIZE);
    memcpy(buf, REGION_SIGNATURE, 4);
    stl_le_p(buf + 8, count);
    for (uint32_t i = 0; i < count; i++) {
        uint8_t *entry = buf + VHDX_REGION_ENTRY(i);

        vhdx_guid_encode(&regions[i].guid, entry);
        stq_le_p(entry + 16, regions[i].offset);
        stl_le_p(entry + 24, regions[i].length);
        stl_le_p(entry + 28, regions[i].flags);
    }
    vhdx_region_table_require(buf);
    vhdx_region_table_seal(buf);
}

bool vhdx_region_table_valid(const uint8_t *buf)
{
    return !memcmp(buf, REGION_SIGNATURE, 4) &&
           (uint32_t)ldl_le_p(buf + VHDX_CHECKSUM_OFFSET) ==
           vhdx_checksum(buf, VHDX_REGION_TABLE_SIZE, VHDX_CHECKSUM_OFFSET);
}

bool vhdx_region_is_foreign(const VHDXRegion *region)
{
    return !(region->flags & VHDX_REGION_REQUIRED) &&
           !vhdx_region_is_known(region);
}

/* Judge the place of @r by itself, and against header section and log. */
static int region_place_check(const VHDXRegion *r, uint64_t log_offset,
                              uint32_t log_length, Error **errp)
{
    char guid[UUID_STR_LEN];

    uuid_unparse_lower(r->guid.id, guid);
    if (r->offset < VHDX_HEADER_SECTION_SIZE || r->offset % VHDX_MIB ||
        r->offset > INT64_MAX - r->length) {
        error_setg(errp, "Region %s has invalid FileOffset %" PRIu64, guid,
                   r->offset);
        return -EINVAL;
    }
    if (!r->length || r->length % VHDX_MIB) {
        error_setg(errp, "Region %s has invalid Length %" PRIu32
                   " (not a multiple of 1 MiB)", guid, r->length);
        return -EINVAL;
    }
    if (log_length &&
        ranges_overlap(r->offset, r->length, log_offset, log_length)) {
        error_setg(errp, "Region %s at FileOffset %" PRIu64 " overlaps the "
                   "log", guid, r->offset);
        return -EINVAL;
    }
    return 0;
}

/*
 * Judge @regions[@i] against the header section, the log and those before, and
 * set what it, or a foreign one before it, holds.
 */
static int region_check(VHDXRegion *regions, uint32_t i, uint64_t log_offset,
                        uint32_t log_length, Error **errp)
{
    VHDXRegion *r = &regions[i];
    bool foreign = vhdx_region_is_foreign(r);
    char guid[UUID_STR_LEN];
    int ret;

    uuid_unparse_lower(r->guid.id, guid);
    ret = region_place_check(r, log_offset, log_length, foreign ? NULL : errp);
    if (ret < 0 && !foreign) {
        return ret;
    }
    r->held = ret < 0 ? 0 : r->length;
    for (uint32_t j = 0; j < i; j++) {
        if (vhdx_guid_equal(&regions[j].guid, &r->guid)) {
            error_setg(errp, "Region %s is in the region table twice", guid);
            return -EINVAL;
        }
        if (!r->held || !regions[j].held ||
            !ranges_overlap(r->offset, r->length, regions[j].offset,
                            regions[j].length)) {
            continue;
        }
        if (foreign) {
            r->held = 0;
        } else if (vhdx_region_is_foreign(&regions[j])) {
            regions[j].held = 0;
        } else {
            error_setg(errp, "Region %s at FileOffset %" PRIu64 " overlaps "
                       "another region", guid, r->offset);
            return -EINVAL;
        }
    }
    return 0;
}

int vhdx_region_table_decode(const uint8_t *buf, uint64_t log_offset,
                             uint32_t log_length, VHDXRegion **regions,
                             uint32_t *count, VHDXRegion *bat,
                             VHDXRegion *metadata, Error **errp)
{
    uint32_t n = ldl_le_p(buf + 8);
    g_autofree VHDXRegion *r = NULL;
    bool have_bat = false, have_metadata = false;
    int ret;

    if (n > VHDX_MAX_TABLE_ENTRIES) {
        error_setg(errp, "Region table has invalid EntryCount %" PRIu32, n);
        return -EINVAL;
    }
    r = g_new(VHDXRegion, n);
    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *entry = buf + VHDX_REGION_ENTRY(i);

        r[i] = (VHDXRegion) {
            .guid = vhdx_guid_decode(entry),
            .offset = ldq_le_p(entry + 16),
            .length = ldl_le_p(entry + 24),
            .flags = ldl_le_p(entry + 28),
        };
        ret = region_check(r, i, log_offset, log_length, errp);
        if (ret < 0) {
            return ret;
        }
        if (vhdx_guid_equal(&r[i].guid, &vhdx_region_bat)) {
            *bat = r[i];
            have_bat = true;
        } else if (vhdx_guid_equal(&r[i].guid, &vhdx_region_metadata)) {
            *metadata = r[i];
            have_metadata = true;
        } else if (!vhdx_region_is_foreign(&r[i])) {
            char guid[UUID_STR_LEN];

            uuid_unparse_lower(r[i].guid.id, guid);
            error_setg(errp, "Region %s is required but not known", guid);
            return -ENOTSUP;
        }
    }
    if (!have_bat || !have_metadata) {
        error_setg(errp, "Region table has no %s region",
                   have_bat ? "metadata" : "BAT");
        return -EINVAL;
    }
    *regions = g_steal_pointer(&r);
    *count = n;
    return 0;
}

/* -- Metadata table and items -- */

void vhdx_metadata_table_encode(const VHDXItem *items, uint32_t count,
                                uint8_t *buf)
{
    memset(buf, 0, VHDX_METADATA_TABLE_SIZE);
    memcpy(buf, METADATA_SIGNATURE, 8);
    stw_le_p(buf + 10, count);
    for (uint32_t i = 0; i < count; i++) {
        uint8_t *entry = buf + VHDX_METADATA_ENTRY(i);

        vhdx_guid_encode(&items[i].guid, entry);
        stl_le_p(entry + 16, items[i].offset);
        stl_le_p(entry + 20, items[i].length);
        stl_le_p(entry + 24, items[i].flags);
    }
}

void vhdx_file_parameters_encode(const VHDXParams *params, uint8_t *item)
{
    stl_le_p(item, params->block_size);
    stl_le_p(item + 4, (params->leave_allocated ? PARAM_LEAVE_ALLOCATED : 0) |
                       (params->has_parent ? PARAM_HAS_PARENT : 0));
}

void vhdx_metadata_encode(const VHDXParams *params, const VHDXItemData *more,
                          uint32_t more_count, uint8_t *buf)
{
    g_autofree VHDXItem *items = g_new(VHDXItem, VHDX_KNOWN_ITEMS + more_count);
    uint8_t *item = buf + VHDX_METADATA_TABLE_SIZE;
    uint32_t offset = VHDX_METADATA_TABLE_SIZE;

    for (int i = 0; i < VHDX_KNOWN_ITEMS; i++) {
        items[i] = (VHDXItem) {
            .guid = *vhdx_known_items[i].guid,
            .offset = offset,
            .length = vhdx_known_items[i].size,
            .flags = vhdx_known_items[i].flags,
        };
        offset += items[i].length;
    }
    for (uint32_t i = 0; i < more_count; i++) {
        items[VHDX_KNOWN_ITEMS + i] = (VHDXItem) {
            .guid = more[i].guid,
            .offset = more[i].length ? offset : 0,
            .length = more[i].length,
            .flags = more[i].flags,
        };
        if (more[i].length) {
            memcpy(buf + offset, more[i].data, more[i].length);
        }
        offset += more[i].length;
    }
    vhdx_metadata_table_encode(items, VHDX_KNOWN_ITEMS + more_count, buf);
    vhdx_file_parameters_encode(params, item);
    stq_le_p(item + 8, params->disk_size);
    vhdx_guid_encode(&params->disk_id, item + 16);
    stl_le_p(item + 32, params->logical_sector);
    stl_le_p(item + 36, params->physical_sector);
}

/* Whether an image with @item can be read by who has to know the item. */
static bool item_is_known(const VHDXItem *item)
{
    return !(item->flags & VHDX_ITEM_USER) &&
           (vhdx_guid_equal(&item->guid, &vhdx_item_parent_locator) ||
            vhdx_guid_equal(&item->guid, &item_geometry) ||
            vhdx_metadata_item_size(&item->guid));
}

static int item_check(const VHDXItem *items, uint32_t i,
                      uint32_t region_length, Error **errp)
{
    const VHDXItem *item = &items[i];
    char guid[UUID_STR_LEN];

    uuid_unparse_lower(item->guid.id, guid);
    if (item->length > VHDX_MAX_ITEM_SIZE) {
        error_setg(errp, "Metadata item %s has invalid Length %" PRIu32, guid,
                   item->length);
        return -EINVAL;
    }
    if (item->length ? item->offset < VHDX_METADATA_TABLE_SIZE ||
                       item->offset > region_length - item->length
                     : item->offset != 0) {
        error_setg(errp, "Metadata item %s has invalid Offset %" PRIu32, guid,
                   item->offset);
        return -EINVAL;
    }
    for (uint32_t j = 0; j < i; j++) {
        if (vhdx_guid_equal(&items[j].guid, &item->guid) &&
            !((items[j].flags ^ item->flags) & VHDX_ITEM_USER)) {
            error_setg(errp, "Metadata item %s is in the table twice", guid);
            return -EINVAL;
        }
        if (item->length && items[j].length &&
            ranges_overlap(item->offset, item->length, items[j].offset,
                           items[j].length)) {
            error_setg(errp, "Metadata item %s at Offset %" PRIu32 " overlaps "
                       "another item", guid, item->offset);
            return -EINVAL;
        }
    }
    if (vhdx_guid_equal(&item->guid, &vhdx_item_unfinished)) {
        error_setg(errp, "Image creation was interrupted before it completed "
                   "(metadata item %s)", guid);
        return -EINVAL;
    }
    if ((item->flags & VHDX_ITEM_REQUIRED) && !item_is_known(item)) {
        error_setg(errp, "Metadata item %s is required but not %s", guid,
                   vhdx_guid_equal(&item->guid, &item_memory_label) ?
                   "supported: it is the label of a persistent memory device" :
                   "known");
        return -ENOTSUP;
    }
    return 0;
}

int vhdx_metadata_table_decode(const uint8_t *buf, uint32_t region_length,
                               VHDXItem **items, uint32_t *count,
                               Error **errp)
{
    g_autofree VHDXItem *found = NULL;
    uint32_t n = lduw_le_p(buf + 10);
    uint32_t user = 0;
    int ret;

    if (memcmp(buf, METADATA_SIGNATURE, 8)) {
        error_setg(errp, "Metadata table has no valid signature");
        return -EINVAL;
    }
    if (n > VHDX_MAX_TABLE_ENTRIES) {
        error_setg(errp, "Metadata table has invalid EntryCount %" PRIu32, n);
        return -EINVAL;
    }
    found = g_new(VHDXItem, n);
    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *entry = buf + VHDX_METADATA_ENTRY(i);

        found[i] = (VHDXItem) {
            .guid = vhdx_guid_decode(entry),
            .offset = ldl_le_p(entry + 16),
            .length = ldl_le_p(entry + 20),
            .flags = ldl_le_p(entry + 24),
        };
        ret = item_check(found, i, region_length, errp);
        if (ret < 0) {
            return ret;
        }
        if ((found[i].flags & VHDX_ITEM_USER) &&
            ++user > VHDX_MAX_USER_ITEMS) {
            error_setg(errp, "Metadata table has more than %d user items",
                       VHDX_MAX_USER_ITEMS);
            return -EINVAL;
        }
    }
    *items = g_steal_pointer(&found);
    *count = n;
    return 0;
}

uint32_t vhdx_metadata_items_end(const VHDXItem *items, uint32_t count)
{
    uint32_t end = VHDX_METADATA_TABLE_SIZE;

    for (uint32_t i = 0; i < count; i++) {
        if (items[i].length) {
            end = MAX(end, items[i].offset + items[i].length);
        }
    }
    return end;
}

const VHDXItem *vhdx_metadata_find(const VHDXItem *items, uint32_t count,
                                   const VHDXGuid *guid)
{
    for (uint32_t i = 0; i < count; i++) {
        if (!(items[i].flags & VHDX_ITEM_USER) &&
            vhdx_guid_equal(&items[i].guid, guid)) {
            return &items[i];
        }
    }
    return NULL;
}

/* Where @guid is in vhdx_known_items, or -1. */
static int known_item(const VHDXGuid *guid)
{
    for (int i = 0; i < ARRAY_SIZE(vhdx_known_items); i++) {
        if (vhdx_guid_equal(guid, vhdx_known_items[i].guid)) {
            return i;
        }
    }
    return -1;
}

uint32_t vhdx_metadata_item_size(const VHDXGuid *guid)
{
    int i = known_item(guid);

    return i < 0 ? 0 : vhdx_known_items[i].size;
}

uint32_t vhdx_metadata_item_flags(const VHDXGuid *guid)
{
    int i = known_item(guid);

    return i < 0 ? 0 : vhdx_known_items[i].flags;
}

void vhdx_metadata_item_decode(const VHDXGuid *guid, const uint8_t *buf,
                               VHDXParams *params)
{
    if (vhdx_guid_equal(guid, &vhdx_item_file_parameters)) {
        uint32_t bits = ldl_le_p(buf + 4);

        params->block_size = ldl_le_p(buf);
        params->leave_allocated = bits & PARAM_LEAVE_ALLOCATED;
        params->has_parent = bits & PARAM_HAS_PARENT;
    } else if (vhdx_guid_equal(guid, &vhdx_item_disk_size)) {
        params->disk_size = ldq_le_p(buf);
    } else if (vhdx_guid_equal(guid, &vhdx_item_disk_id)) {
        params->disk_id = vhdx_guid_decode(buf);
    } else if (vhdx_guid_equal(guid, &vhdx_item_logical_sector)) {
        params->logical_sector = ldl_le_p(buf);
    } else {
        assert(vhdx_guid_equal(guid, &vhdx_item_physical_sector));
        params->physical_sector = ldl_le_p(buf);
    }
}

int vhdx_params_check(const VHDXParams *params, Error **errp)
{
    if (!is_power_of_2(params->block_size) ||
        params->block_size < VHDX_MIN_BLOCK_SIZE ||
        params->block_size > VHDX_MAX_BLOCK_SIZE) {
        error_setg(errp, "Invalid BlockSize %" PRIu32 " (not a power of two "
                   "from 1 MiB to 256 MiB)", params->block_size);
        return -EINVAL;
    }
    if (params->logical_sector != 512 && params->logical_sector != 4096) {
        error_setg(errp, "Invalid LogicalSectorSize %" PRIu32 " (not 512 or "
                   "4096)", params->logical_sector);
        return -EINVAL;
    }
    if (params->physical_sector != 512 && params->physical_sector != 4096) {
        error_setg(errp, "Invalid PhysicalSectorSize %" PRIu32 " (not 512 or "
                   "4096)", params->physical_sector);
        return -EINVAL;
    }
    if (params->disk_size > VHDX_MAX_DISK_SIZE) {
        error_setg(errp, "Invalid VirtualDiskSize %" PRIu64 " (more than 64 "
                   "TiB)", params->disk_size);
        return -EINVAL;
    }
    if (params->disk_size % params->logical_sector) {
        error_setg(errp, "Invalid VirtualDiskSize %" PRIu64 " (not a multiple "
                   "of the logical sector of %" PRIu32 ")", params->disk_size,
                   params->logical_sector);
        return -EINVAL;
    }
    return 0;
}
