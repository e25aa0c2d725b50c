/*
 * VHDX: what an amend changes
 *
 * The Virtual Disk ID and the physical sector size are metadata items on which
 * nothing else in the file depends.  After a power cut those that are changed
 * together are the old ones or the new ones.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "qemu/option.h"
#include "block/vhdx/amend.h"
#include "block/vhdx/begin.h"
#include "block/vhdx/call.h"
#include "block/vhdx/compact.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/log-move.h"
#include "block/vhdx/metadata-write.h"
#include "block/vhdx/options.h"
#include "block/vhdx/request.h"
#include "block/vhdx/subformat.h"

#define VHDX_OPT_COMPACT    "compact"

QemuOptsList vhdx_amend_opts = {
    .name = "vhdx-amend-opts",
    .head = QTAILQ_HEAD_INITIALIZER(vhdx_amend_opts.head),
    .desc = {
        {
            .name = VHDX_OPT_COMPACT,
            .type = QEMU_OPT_STRING,
            .help = "Make the file of a dynamic image shorter: 'space' fills "
                    "free space with blocks from the end, 'zeroes' gives up "
                    "blocks full of zeros before that",
        },
        {
            .name = VHDX_OPT_DISK_ID,
            .type = QEMU_OPT_STRING,
            .help = "Give the disk another identity, as a copy needs that is "
                    "used beside its original: a GUID, or 'new' for a random "
                    "one",
        },
        {
            .name = VHDX_OPT_LOG_SIZE,
            .type = QEMU_OPT_SIZE,
            .help = "Log size, a multiple of 1 MiB under 4 GiB; a log of "
                    "another size moves to free space",
        },
        {
            .name = VHDX_OPT_PHYSICAL_SECTOR,
            .type = QEMU_OPT_SIZE,
            .help = "Physical sector size that the guest is told, 512 or 4096",
        },
        {
            .name = BLOCK_OPT_PREALLOC,
            .type = QEMU_OPT_STRING,
            .help = "Preallocation for subformat=fixed: off, metadata, falloc "
                    "or full; default: off (a sparse file)",
        },
        {
            .name = BLOCK_OPT_SUBFMT,
            .type = QEMU_OPT_STRING,
            .help = "Make a dynamic image 'fixed', with a place for each "
                    "block, or a fixed one 'dynamic', so that its file can be "
                    "compacted",
        },
        { /* end of list */ }
    },
};

int vhdx_amend_take(VHDXAmend *a, const char *subformat, const char *disk_id,
                    const uint64_t *sector, const uint64_t *log_size,
                    Error **errp)
{
    a->fix = subformat && !strcmp(subformat, "fixed");
    a->loosen = subformat && !strcmp(subformat, "dynamic");
    if (subformat && !a->fix && !a->loosen) {
        error_setg(errp, BLOCK_OPT_SUBFMT " can be 'fixed' or 'dynamic', not "
                   "'%s'", subformat);
        return -EINVAL;
    }
    if (!a->fix && a->prealloc != PREALLOC_MODE_OFF) {
        error_setg(errp, "Preallocation mode '%s' needs subformat=fixed",
                   PreallocMode_str(a->prealloc));
        return -EINVAL;
    }
    if (a->fix && a->compact) {
        error_setg(errp, "A fixed image can't be compacted: "
                   VHDX_OPT_COMPACT " does not go with subformat=fixed");
        return -EINVAL;
    }
    if (sector) {
        if (vhdx_options_check_sector_size(VHDX_OPT_PHYSICAL_SECTOR, *sector,
                                           errp) < 0) {
            return -EINVAL;
        }
        a->physical_sector = *sector;
    }
    if (log_size) {
        if (vhdx_options_check_log_size(*log_size, errp) < 0) {
            return -EINVAL;
        }
        a->log_size = *log_size;
    }
    if (disk_id && !strcmp(disk_id, "new")) {
        a->disk_id = vhdx_guid_new();
    } else if (disk_id) {
        return vhdx_options_parse_disk_id(disk_id, &a->disk_id, errp);
    }
    return 0;
}

static int amend_parse(QemuOpts *opts, VHDXAmend *a, Error **errp)
{
    const char *compact = qemu_opt_get(opts, VHDX_OPT_COMPACT);
    uint64_t sector = qemu_opt_get_size(opts, VHDX_OPT_PHYSICAL_SECTOR, 0);
    uint64_t log_size = qemu_opt_get_size(opts, VHDX_OPT_LOG_SIZE, 0);
    const char *prealloc = qemu_opt_get(opts, BLOCK_OPT_PREALLOC);
    int mode = !prealloc ? PREALLOC_MODE_OFF :
               qapi_enum_parse(&PreallocMode_lookup, prealloc, -1, NULL);

    a->compact = compact;
    a->zeroes = compact && !strcmp(compact, "zeroes");
    if (compact && !a->zeroes && strcmp(compact, "space")) {
        error_setg(errp, VHDX_OPT_COMPACT " can be 'space' or 'zeroes', not "
                   "'%s'", compact);
        return -EINVAL;
    }
    if (mode < 0) {
        error_setg(errp, "Parameter '" BLOCK_OPT_PREALLOC "' does not accept "
                   "value '%s'", prealloc);
        return -EINVAL;
    }
    a->prealloc = mode;
    return vhdx_amend_take(
        a, qemu_opt_get(opts, BLOCK_OPT_SUBFMT),
        qemu_opt_get(opts, VHDX_OPT_DISK_ID),
        qemu_opt_get(opts, VHDX_OPT_PHYSICAL_SECTOR) ? &sector : NULL,
        qemu_opt_get(opts, VHDX_OPT_LOG_SIZE) ? &log_size : NULL, errp);
}

/* Items of the metadata table that get another value */
typedef struct Items {
    VHDXParams params;              /* with them */
    uint8_t disk_id[16];
    uint8_t sector[4];
    VHDXItemChange changes[2];
    unsigned count;
} Items;

/* Find out which change, as @i, if the disk is to be as @a has it. */
static int items_find(BDRVVHDXState *s, const VHDXAmend *a, Items *i,
                      Error **errp)
{
    VHDXParams *params = &i->params;

    *i = (Items) { .params = s->params };
    if (a->physical_sector && a->physical_sector != params->physical_sector) {
        params->physical_sector = a->physical_sector;
        stl_le_p(i->sector, params->physical_sector);
        i->changes[i->count++] = (VHDXItemChange) {
            .guid = &vhdx_item_physical_sector,
            .buf = i->sector,
            .length = sizeof(i->sector),
            .flags = VHDX_ITEM_DISK,
        };
    }
    if (!vhdx_guid_is_nil(&a->disk_id) &&
        !vhdx_guid_equal(&a->disk_id, &params->disk_id)) {
        params->disk_id = a->disk_id;
        vhdx_guid_encode(&params->disk_id, i->disk_id);
        i->changes[i->count++] = (VHDXItemChange) {
            .guid = &vhdx_item_disk_id,
            .buf = i->disk_id,
            .length = sizeof(i->disk_id),
            .flags = VHDX_ITEM_DISK,
        };
    }
    if (i->count && params->has_parent) {
        error_setg(errp, "The %s of a differencing image is that of its parent",
                   i->changes[0].guid == &vhdx_item_disk_id ?
                   "Virtual Disk ID" : "physical sector size");
        return -ENOTSUP;
    }
    if (i->count && a->physical_sector &&
        a->physical_sector < params->logical_sector) {
        error_setg(errp, "A " VHDX_OPT_PHYSICAL_SECTOR " of %" PRIu32 " is "
                   "less than the logical sector size of %" PRIu32,
                   a->physical_sector, params->logical_sector);
        return -EINVAL;
    }
    return 0;
}

static int coroutine_fn GRAPH_RDLOCK
items_write(BlockDriverState *bs, Items *i, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    int ret = vhdx_begin(bs, VHDX_METADATA);

    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not begin to write");
        return ret;
    }
    qemu_co_mutex_lock(&s->commit_lock);
    ret = vhdx_metadata_change(bs, i->changes, i->count, errp);
    if (ret == 0) {
        VHDX_LOCK_GUARD(s);
        s->params.physical_sector = i->params.physical_sector;
        s->params.disk_id = i->params.disk_id;
    }
    qemu_co_mutex_unlock(&s->commit_lock);
    return ret;
}

/*
 * Let the items be as @a has them.  The image is reserved: another job may be
 * about to move the log or the metadata region.
 */
static int coroutine_fn GRAPH_RDLOCK
items_change(BlockDriverState *bs, const VHDXAmend *a, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    Items items;
    int ret;

    vhdx_request_reserve(s);
    ret = items_find(s, a, &items, errp);
    if (ret == 0 && items.count) {
        ret = items_write(bs, &items, errp);
    }
    vhdx_request_unreserve(s);
    return ret;
}

/*
 * Between two steps others may go on, or say that it is enough: that is no
 * error of the next one, of which nothing is done then.
 */
static int coroutine_fn GRAPH_RDLOCK
step_begin(BlockDriverState *bs, const VHDXAmend *a, bool *begun, Error **errp)
{
    int ret = *begun && a->user ? a->user->pause(bs, a->user->opaque) : 0;

    *begun = true;
    return ret ?: vhdx_begin_check(bs, errp);
}

/* What may lack space comes first, and what takes long last. */
int coroutine_fn
vhdx_amend_change(BlockDriverState *bs, const VHDXAmend *a, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    bool begun = false;
    Items items;
    int ret;

    if ((a->fix || a->loosen) && !vhdx_subformat_allowed(s, a->fix, errp)) {
        return -ENOTSUP;
    }
    /* Refuse now what would be refused later. */
    ret = items_find(s, a, &items, errp);
    if (ret == 0 && a->compact && !a->loosen) {
        ret = vhdx_compact_check(s, errp);
    }
    if (ret < 0) {
        return ret;
    }
    if (a->fix) {
        ret = step_begin(bs, a, &begun, errp) ?:
              vhdx_subformat_fix(bs, a->prealloc, a->status_cb, a->cb_opaque,
                                 a->user, errp);
    }
    if (ret == 0 && a->log_size) {
        ret = step_begin(bs, a, &begun, errp) ?:
              vhdx_log_resize(bs, a->log_size, errp);
    }
    if (ret == 0 && items.count) {
        ret = step_begin(bs, a, &begun, errp) ?: items_change(bs, a, errp);
    }
    if (ret == 0 && a->loosen) {
        ret = step_begin(bs, a, &begun, errp) ?:
              vhdx_subformat_loosen(bs, errp);
    }
    if (ret < 0 || !a->compact) {
        return ret;
    }
    return a->user ? vhdx_co_compact_live(bs, a->zeroes, a->user, errp) :
           vhdx_co_compact(bs, a->zeroes, a->status_cb, a->cb_opaque, errp);
}

static int coroutine_fn GRAPH_RDLOCK
amend_entry(BlockDriverState *bs, void *opaque, Error **errp)
{
    return vhdx_amend_change(bs, opaque, errp);
}

int coroutine_mixed_fn
vhdx_amend_options(BlockDriverState *bs, QemuOpts *opts,
                   BlockDriverAmendStatusCB *status_cb, void *cb_opaque,
                   bool force, Error **errp)
{
    VHDXAmend a = {
        .status_cb = status_cb,
        .cb_opaque = cb_opaque,
    };
    int ret = amend_parse(opts, &a, errp);

    return ret < 0 ? ret : vhdx_call(bs, amend_entry, &a, errp);
}
