/*
 * VHDX: what open reads of region tables and metadata
 *
 * Two copies of the region table exist, and either will do.  What is wrong
 * with a valid copy is wrong with the image: the checksum says that it was
 * written like that.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "block/vhdx/bat-entry.h"
#include "block/vhdx/cache-write.h"
#include "block/vhdx/locator.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/metadata.h"
#include "block/vhdx/replay.h"

/* What is read at once: the table, and the items if they follow it */
#define HEAD_SIZE   (VHDX_METADATA_TABLE_SIZE + VHDX_PAGE_SIZE)

/*
 * Whether regions and log lie within the file as it is after a replay.  They
 * must, as the file grows behind its end; a foreign region holds what the file
 * has of it.
 */
static int objects_in_file(BDRVVHDXState *s, Error **errp)
{
    uint64_t size = vhdx_file_size(s);

    for (uint32_t i = 0; i < s->region_count; i++) {
        VHDXRegion *r = &s->regions[i];
        const char *name = vhdx_guid_equal(&r->guid, &vhdx_region_bat) ?
                           "BAT" : "metadata";

        if (vhdx_region_is_foreign(r)) {
            uint64_t rest = size - MIN(r->offset, size);

            r->held = MIN(r->held, ROUND_UP(rest, VHDX_MIB));
        } else if (r->offset + r->length > size) {
            error_setg(errp, "The %s region at FileOffset %" PRIu64 " with "
                       "Length %" PRIu32 " does not end within the file of %"
                       PRIu64 " bytes", name, r->offset, r->length, size);
            return -EINVAL;
        }
    }
    if (s->header.log_length &&
        s->header.log_offset + s->header.log_length > size) {
        error_setg(errp, "The log at LogOffset %" PRIu64 " with LogLength %"
                   PRIu32 " does not end within the file of %" PRIu64
                   " bytes", s->header.log_offset, s->header.log_length, size);
        return -EINVAL;
    }
    return 0;
}

static int coroutine_fn GRAPH_RDLOCK
region_table_load(BlockDriverState *bs, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    g_autofree uint8_t *buf = g_malloc(VHDX_REGION_TABLE_SIZE);
    int good = -1;
    int ret;

    for (int i = 1; i >= 0; i--) {
        ret = vhdx_replay_read(bs, VHDX_REGION_TABLE_OFFSET(i),
                               VHDX_REGION_TABLE_SIZE, buf);
        if (ret < 0) {
            error_setg_errno(errp, -ret, "Could not read region table %d",
                             i + 1);
            return ret;
        }
        s->mend_region_table[i] = !vhdx_region_table_valid(buf);
        if (!s->mend_region_table[i]) {
            good = i;
        }
    }
    if (good < 0) {
        error_setg(errp, "Neither region table has a valid signature and "
                   "checksum");
        return -EINVAL;
    }
    if (good == 1) {
        ret = vhdx_replay_read(bs, VHDX_REGION_TABLE_OFFSET(1),
                               VHDX_REGION_TABLE_SIZE, buf);
        if (ret < 0) {
            error_setg_errno(errp, -ret, "Could not read region table 2");
            return ret;
        }
    }
    return vhdx_region_table_decode(buf, s->header.log_offset,
                                    s->header.log_length, &s->regions,
                                    &s->region_count, &s->bat, &s->metadata,
                                    errp);
}

/* Read @item to @buf; @head is the first part of the metadata region. */
static int coroutine_fn GRAPH_RDLOCK
item_read(BlockDriverState *bs, const uint8_t *head, const VHDXItem *item,
          uint8_t *buf)
{
    BDRVVHDXState *s = bs->opaque;

    if ((uint64_t)item->offset + item->length > HEAD_SIZE) {
        return vhdx_replay_read(bs, s->metadata.offset + item->offset,
                                item->length, buf);
    }
    if (item->length) {
        memcpy(buf, head + item->offset, item->length);
    }
    return 0;
}

static int coroutine_fn GRAPH_RDLOCK
item_load(BlockDriverState *bs, const uint8_t *head, const VHDXItem *items,
          uint32_t count, int i, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    const VHDXItem *item = vhdx_metadata_find(items, count,
                                              vhdx_known_items[i].guid);
    uint8_t buf[16];
    int ret;

    assert(vhdx_known_items[i].size <= sizeof(buf));
    if (!item) {
        error_setg(errp, "Metadata item '%s' is missing",
                   vhdx_known_items[i].name);
        return -EINVAL;
    }
    if (item->length != vhdx_known_items[i].size) {
        error_setg(errp, "Metadata item '%s' has invalid Length %" PRIu32,
                   vhdx_known_items[i].name, item->length);
        return -EINVAL;
    }
    ret = item_read(bs, head, item, buf);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not read metadata item '%s'",
                         vhdx_known_items[i].name);
        return ret;
    }
    vhdx_metadata_item_decode(vhdx_known_items[i].guid, buf, &s->params);
    if (vhdx_known_items[i].guid == &vhdx_item_disk_size) {
        s->disk_size_item = item->offset;
    }
    return 0;
}

/*
 * Read the Parent Locator @item, or NULL: where it can't be used, the reason is
 * kept for whoever needs it.
 */
static int coroutine_fn GRAPH_RDLOCK
locator_load(BlockDriverState *bs, const uint8_t *head, const VHDXItem *item)
{
    BDRVVHDXState *s = bs->opaque;
    g_autofree uint8_t *buf = NULL;
    Error *err = NULL;
    int ret;

    s->has_locator = item;
    if (!item) {
        s->locator_error = g_strdup("there is none");
        return 0;
    }
    buf = g_malloc(item->length);
    ret = item_read(bs, head, item, buf);
    if (ret < 0) {
        return ret;
    }
    s->locator = vhdx_locator_decode(buf, item->length, &err);
    if (!s->locator) {
        s->locator_error = g_strdup(error_get_pretty(err));
        error_free(err);
    }
    return 0;
}

int coroutine_fn vhdx_metadata_load(BlockDriverState *bs, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    g_autofree uint8_t *head = g_malloc(HEAD_SIZE);
    g_autofree VHDXItem *items = NULL;
    uint32_t count;
    int ret;

    ret = region_table_load(bs, errp);
    if (ret < 0) {
        return ret;
    }
    ret = objects_in_file(s, errp);
    if (ret < 0) {
        return ret;
    }
    vhdx_bat_note_objects(s);
    ret = vhdx_replay_read(bs, s->metadata.offset, HEAD_SIZE, head);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not read the metadata table");
        return ret;
    }
    ret = vhdx_metadata_table_decode(head, s->metadata.length, &items, &count,
                                     errp);
    if (ret < 0) {
        return ret;
    }
    s->items_end = vhdx_metadata_items_end(items, count);
    s->items_limit = s->metadata.length;
    for (int i = 0; i < ARRAY_SIZE(vhdx_known_items); i++) {
        ret = item_load(bs, head, items, count, i, errp);
        if (ret < 0) {
            return ret;
        }
    }
    ret = vhdx_params_check(&s->params, errp);
    if (ret < 0) {
        return ret;
    }
    /* A child keeps nothing allocated for its parent's data. */
    s->params.leave_allocated &= !s->params.has_parent;
    ret = locator_load(bs, head,
                       vhdx_metadata_find(items, count,
                                          &vhdx_item_parent_locator));
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not read the Parent Locator");
        return ret;
    }
    vhdx_geometry_init(&s->geo, &s->params);
    if (s->geo.bat_entries > s->bat.length / VHDX_BAT_ENTRY_SIZE) {
        error_setg(errp, "The BAT region has a Length of %" PRIu32 " bytes, "
                   "too few for the %" PRIu64 " entries of this disk",
                   s->bat.length, s->geo.bat_entries);
        return -EINVAL;
    }
    return 0;
}

int coroutine_fn vhdx_region_table_mend(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    g_autofree uint8_t *buf = g_malloc(VHDX_REGION_TABLE_SIZE);
    int bad, ret;

    vhdx_assert_commit_locked(s);
    if (!vhdx_region_table_is_damaged(s)) {
        return 0;
    }
    bad = s->mend_region_table[0] ? 0 : 1;
    ret = vhdx_replay_read(bs, VHDX_REGION_TABLE_OFFSET(!bad),
                           VHDX_REGION_TABLE_SIZE, buf);
    if (ret < 0) {
        return ret;
    }
    if (vhdx_region_table_require(buf)) {
        /* Both, as the copies are to agree */
        vhdx_region_table_seal(buf);
        ret = vhdx_cache_write(bs, VHDX_REGION_TABLE_OFFSET(!bad),
                               VHDX_REGION_TABLE_SIZE, buf);
        if (ret < 0) {
            return ret;
        }
    }
    ret = vhdx_cache_write(bs, VHDX_REGION_TABLE_OFFSET(bad),
                           VHDX_REGION_TABLE_SIZE, buf);
    if (ret < 0) {
        return ret;
    }
    s->mend_region_table[bad] = false;
    return 0;
}
