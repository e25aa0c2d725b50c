/*
 * VHDX: image creation
 *
 * Only when options.c has found nothing wrong with what is asked for is a file
 * touched.  Then the layout that it has planned is written, with the encoders
 * and the BAT arithmetic that the rest of the driver uses.
 *
 * The node written to may have any content and any length, and may be unable
 * to change the latter.  So nothing is taken to be zero that has not just been
 * made so, and the file identifier comes last: a half-made image is none.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/memalign.h"
#include "qemu/option.h"
#include "block/vhdx/create.h"
#include "block/vhdx/create-parent.h"
#include "block/vhdx/options.h"

#define WRITE_BYTES             MiB

/* By so much is a node made longer that may be able to preallocate. */
#define TRIAL_BYTES             (64 * KiB)

/* -- Writing -- */

/* Whether the file's space is to be there, not only its length. */
static bool wants_space(PreallocMode prealloc)
{
    return prealloc == PREALLOC_MODE_FALLOC || prealloc == PREALLOC_MODE_FULL;
}

/* Set the node's length to @size.  @zero: what it gains reads as zeros. */
static int coroutine_fn
node_truncate(BlockBackend *blk, uint64_t size, PreallocMode prealloc,
              bool *zero, Error **errp)
{
    ERRP_GUARD();
    int ret = blk_co_truncate(blk, size, false, prealloc, BDRV_REQ_ZERO_WRITE,
                              errp);

    if (ret == -ENOTSUP) {
        error_free(*errp);
        *errp = NULL;
        *zero = false;
        ret = blk_co_truncate(blk, size, false, prealloc, 0, errp);
    }
    return ret;
}

/* Make the node as long as @end.  @zero: what it gains reads as zeros. */
static int coroutine_fn
node_grow(BlockBackend *blk, const VHDXLayout *layout, uint64_t end,
          PreallocMode prealloc, bool *zero, Error **errp)
{
    ERRP_GUARD();
    int64_t length;
    int ret;

    ret = node_truncate(blk, end, prealloc, zero, errp);
    if (ret == -ENOTSUP && prealloc == PREALLOC_MODE_FALLOC) {
        error_prepend(errp, "The protocol node " VHDX_NO_FALLOC ": ");
    } else if (ret < 0) {
        length = blk_co_getlength(blk);
        error_prepend(errp, "The image needs %" PRIu64 " bytes, but the "
                      "protocol node has %" PRId64 " bytes and could not be "
                      "made longer: ",
                      layout->file_size, length);
    }
    /* For EFBIG, qemu-img would say instead that the format has a limit. */
    return ret == -EFBIG ? -ENOSPC : ret;
}

/*
 * Whether the node can have the length that @layout needs, and falloc if
 * @prealloc wants that.  Only trying tells, and only longer is tried: what the
 * node holds stays as it is, and so does its length, where it can shrink.
 */
static int coroutine_fn
node_ask(BlockBackend *blk, const VHDXLayout *layout, PreallocMode prealloc,
         Error **errp)
{
    int64_t length = blk_co_getlength(blk);
    uint64_t end = layout->file_size;
    bool zero;
    int ret = 0;

    if (length < 0) {
        error_setg_errno(errp, -length, "Could not get the node's length");
        return length;
    }
    if (length < end) {
        ret = node_grow(blk, layout, end, PREALLOC_MODE_OFF, &zero, errp);
        if (ret < 0) {
            goto out;
        }
    }
    end = MAX(end, length) + TRIAL_BYTES;
    /* Zeros are written to a node that is long enough and can't grow. */
    if (prealloc == PREALLOC_MODE_FALLOC &&
        node_truncate(blk, end, PREALLOC_MODE_OFF, &zero, NULL) == 0) {
        ret = node_grow(blk, layout, end + TRIAL_BYTES, prealloc, &zero, errp);
    }
out:
    if (length < layout->file_size || prealloc == PREALLOC_MODE_FALLOC) {
        /* What has failed may have taken effect all the same. */
        (void)blk_co_truncate(blk, length, false, PREALLOC_MODE_OFF, 0, NULL);
    }
    return ret;
}

/*
 * Tell of a node of @length bytes that can't grow, if the image may come to
 * need more.  Only trying tells.
 */
static void coroutine_fn
node_warn(BlockBackend *blk, const VHDXLayout *layout, int64_t length)
{
    bool zero;

    if (layout->full_size <= length) {
        return;
    }
    if (node_truncate(blk, length + TRIAL_BYTES, PREALLOC_MODE_OFF, &zero,
                      NULL) == 0) {
        (void)blk_co_truncate(blk, length, false, PREALLOC_MODE_OFF, 0, NULL);
    } else {
        warn_report("The image takes up to %" PRIu64 " bytes, and the protocol "
                    "node has %" PRId64 " bytes and can't grow",
                    layout->full_size, length);
    }
}

/*
 * Make the empty node as long as the image is, with its space allocated but for
 * the tables', which are written.  Returns 1, 0 where the protocol has no such
 * mode and zeros have to be written, or -errno.
 */
static int coroutine_fn
node_preallocate(BlockBackend *blk, const VHDXLayout *layout,
                 PreallocMode prealloc, bool *zero, Error **errp)
{
    ERRP_GUARD();
    int ret = node_grow(blk, layout, layout->first_block, PREALLOC_MODE_OFF,
                        zero, errp);

    if (ret < 0) {
        return ret;
    }
    ret = node_grow(blk, layout, layout->file_size, prealloc, zero, errp);
    if (ret == -ENOTSUP && prealloc == PREALLOC_MODE_FULL) {
        error_free(*errp);
        *errp = NULL;
        return 0;
    }
    return ret < 0 ? ret : 1;
}

/*
 * Give the node its length.  @zero tells whether it reads as zeros afterwards,
 * @full whether its space is allocated as the options ask.
 */
static int coroutine_fn
node_resize(BlockBackend *blk, const VHDXLayout *layout, PreallocMode prealloc,
            bool *zero, bool *full, Error **errp)
{
    int64_t length;
    int ret;

    /* Get rid of what is there; a node that can't do that is zeroed later. */
    (void)blk_co_truncate(blk, 0, false, PREALLOC_MODE_OFF, 0, NULL);
    length = blk_co_getlength(blk);
    if (length < 0) {
        error_setg_errno(errp, -length, "Could not get the node's length");
        return length;
    }
    *zero = length == 0;
    if (length >= layout->file_size) {
        node_warn(blk, layout, length);
        return 0;
    }
    if (*zero && wants_space(prealloc)) {
        ret = node_preallocate(blk, layout, prealloc, zero, errp);
        if (ret != 0) {
            *full = ret > 0;
            return MIN(ret, 0);
        }
    }
    return node_grow(blk, layout, layout->file_size, PREALLOC_MODE_OFF, zero,
                     errp);
}

static void encode_header_section(const VHDXLayout *layout, uint8_t *buf)
{
    VHDXHeader header = {
        .file_write_guid = vhdx_guid_new(),
        .data_write_guid = vhdx_guid_new(),
        .version = 1,
        .log_length = layout->log_length,
        .log_offset = layout->log_offset,
    };
    VHDXRegion regions[] = {
        {
            .guid = vhdx_region_bat,
            .offset = layout->bat_offset,
            .length = layout->bat_length,
            .flags = VHDX_REGION_REQUIRED,
        }, {
            .guid = vhdx_region_metadata,
            .offset = layout->metadata_offset,
            .length = layout->metadata_length,
            .flags = VHDX_REGION_REQUIRED,
        },
    };

    memset(buf, 0, VHDX_HEADER_SECTION_SIZE);
    vhdx_file_id_encode("QEMU v" QEMU_VERSION, buf);
    for (int i = 0; i < 2; i++) {
        header.sequence = VHDX_FIRST_SEQUENCE - 1 + i;
        vhdx_header_encode(&header, buf + VHDX_HEADER_OFFSET(i));
        vhdx_region_table_encode(regions, ARRAY_SIZE(regions),
                                 buf + VHDX_REGION_TABLE_OFFSET(i));
    }
}

static int coroutine_fn
write_bat(BlockBackend *blk, const VHDXLayout *layout, uint8_t *buf)
{
    uint64_t first_block = layout->state == VHDX_BLOCK_FULLY_PRESENT ?
                           layout->first_block : 0;

    if (layout->state == VHDX_BLOCK_NOT_PRESENT) {
        return blk_co_pwrite_zeroes(blk, layout->bat_offset,
                                    layout->bat_length, BDRV_REQ_MAY_UNMAP);
    }
    for (uint64_t at = 0; at < layout->bat_length; at += WRITE_BYTES) {
        int ret;

        vhdx_bat_fill(&layout->geo, at / VHDX_BAT_ENTRY_SIZE,
                      WRITE_BYTES / VHDX_BAT_ENTRY_SIZE, layout->state,
                      first_block, buf);
        ret = blk_co_pwrite(blk, layout->bat_offset + at, WRITE_BYTES, buf, 0);
        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}

/* Write what lies behind the header section. */
static int coroutine_fn
write_objects(BlockBackend *blk, const VHDXLayout *layout, bool zero_payload,
              BdrvRequestFlags zero_flags, uint8_t *buf)
{
    uint64_t payload = layout->file_size - layout->first_block;
    int ret;

    ret = write_bat(blk, layout, buf);
    if (ret < 0) {
        return ret;
    }
    memset(buf, 0, layout->metadata_length);
    vhdx_metadata_encode(&layout->params,
                         layout->items ? (void *)layout->items->data : NULL,
                         layout->items ? layout->items->len : 0, buf);
    ret = blk_co_pwrite(blk, layout->metadata_offset, layout->metadata_length,
                        buf, 0);
    if (ret < 0) {
        return ret;
    }
    if (!(zero_flags & BDRV_REQ_MAY_UNMAP)) {
        /* No request to preallocated payload fails for want of space. */
        ret = blk_co_pwrite_zeroes(blk, layout->log_offset, layout->log_length,
                                   zero_flags);
        if (ret < 0) {
            return ret;
        }
    }
    if (!zero_payload || !payload) {
        return 0;
    }
    return blk_co_pwrite_zeroes(blk, layout->first_block, payload, zero_flags);
}

/* Write everything but the file identifier, then that. */
static int coroutine_fn
write_layout(BlockBackend *blk, const VHDXLayout *layout, bool zero_payload,
             BdrvRequestFlags zero_flags, uint8_t *buf)
{
    int ret;

    ret = blk_co_pwrite_zeroes(blk, 0, VHDX_FILE_ID_SIZE, 0);
    if (ret < 0) {
        return ret;
    }
    ret = blk_co_flush(blk);
    if (ret < 0) {
        return ret;
    }
    ret = write_objects(blk, layout, zero_payload, zero_flags, buf);
    if (ret < 0) {
        return ret;
    }
    encode_header_section(layout, buf);
    ret = blk_co_pwrite(blk, VHDX_FILE_ID_SIZE,
                        VHDX_HEADER_SECTION_SIZE - VHDX_FILE_ID_SIZE,
                        buf + VHDX_FILE_ID_SIZE, 0);
    if (ret < 0) {
        return ret;
    }
    ret = blk_co_flush(blk);
    if (ret < 0) {
        return ret;
    }
    ret = blk_co_pwrite(blk, 0, VHDX_FILE_ID_SIZE, buf, 0);
    if (ret < 0) {
        return ret;
    }
    return blk_co_flush(blk);
}

/* -- Creating -- */

/* Let the node have the length, and then the content, of a new image. */
static int coroutine_fn
node_make_image(BlockBackend *blk, const VHDXLayout *layout,
                PreallocMode prealloc, Error **errp)
{
    bool space = wants_space(prealloc);
    bool zero = false, full = false;
    uint8_t *buf;
    int ret;

    ret = node_ask(blk, layout, prealloc, errp);
    if (ret < 0) {
        return ret;
    }
    ret = node_resize(blk, layout, prealloc, &zero, &full, errp);
    if (ret < 0) {
        return ret;
    }
    buf = blk_blockalign(blk, MAX(WRITE_BYTES, VHDX_HEADER_SECTION_SIZE));
    ret = write_layout(blk, layout, !zero || (space && !full),
                       space ? 0 : BDRV_REQ_MAY_UNMAP, buf);
    qemu_vfree(buf);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not write the VHDX image");
    }
    return ret;
}

/*
 * Work out what an image of @opts in the file @child is.  Its items are to be
 * freed.  Returns 0 or -errno.
 */
static int coroutine_fn create_plan(const char *child, VHDXCreateOptions *opts,
                                    VHDXLayout *layout, Error **errp)
{
    g_autoptr(GArray) items = NULL;
    int ret;

    ret = vhdx_create_ask_parent(child, opts, &items, errp);
    if (ret < 0) {
        return ret;
    }
    ret = vhdx_layout_plan(opts, layout, errp);
    if (ret < 0) {
        return ret;
    }
    layout->items = g_steal_pointer(&items);
    return 0;
}

/* Make the image of @layout on the node @bs. */
static int coroutine_fn
create_on_node(BlockDriverState *bs, const VHDXCreateOptions *opts,
               VHDXLayout *layout, Error **errp)
{
    BlockBackend *blk;
    int ret;

    blk = blk_co_new_with_bs(bs, BLK_PERM_WRITE | BLK_PERM_RESIZE,
                             BLK_PERM_ALL, errp);
    if (!blk) {
        return -EPERM;
    }
    blk_set_allow_write_beyond_eof(blk, true);
    if (opts->physical_sector < opts->logical_sector) {
        warn_report("A " VHDX_OPT_PHYSICAL_SECTOR " of %" PRIu64 " is less "
                    "than the " VHDX_OPT_LOGICAL_SECTOR " of %" PRIu64,
                    opts->physical_sector, opts->logical_sector);
    }
    ret = node_make_image(blk, layout, opts->prealloc, errp);
    blk_co_unref(blk);
    return ret;
}

int coroutine_fn vhdx_co_create(BlockdevCreateOptions *create_options,
                                Error **errp)
{
    BlockdevCreateOptionsVhdx *vhdx_opts = &create_options->u.vhdx;
    g_autofree char *child = NULL;
    VHDXCreateOptions opts;
    VHDXLayout layout;
    BlockDriverState *bs;
    int ret;

    assert(create_options->driver == BLOCKDEV_DRIVER_VHDX);
    bs = bdrv_co_open_blockdev_ref(vhdx_opts->file, errp);
    if (!bs) {
        return -EIO;
    }
    child = vhdx_create_file_path(bs);
    ret = vhdx_options_parse(vhdx_opts, &opts, errp) ?:
          create_plan(child ?: bs->filename, &opts, &layout, errp);
    if (ret < 0) {
        goto out;
    }
    ret = create_on_node(bs, &opts, &layout, errp);
    g_clear_pointer(&layout.items, g_array_unref);
out:
    bdrv_co_unref(bs);
    return ret;
}

/* Whether files of @protocol are made with a preallocation mode at all. */
static bool protocol_preallocates(BlockDriver *protocol)
{
    const QemuOptDesc *desc = protocol->create_opts->desc;

    while (desc->name && strcmp(desc->name, BLOCK_OPT_PREALLOC)) {
        desc++;
    }
    return desc->name;
}

/*
 * Before anything is made under @filename: whether what @existed can become an
 * image of @layout, and if there is nothing, whether the protocol knows what
 * @prealloc wants, as not every one can take back a file.  Returns 0, or -errno
 * with nothing changed.
 */
static int coroutine_fn
file_ask(const char *filename, const VHDXLayout *layout, PreallocMode prealloc,
         bool *existed, Error **errp)
{
    BlockDriver *protocol = bdrv_find_protocol(filename, true, errp);
    BlockDriverState *bs;
    BlockBackend *blk;
    int ret;

    if (!protocol) {
        return -ENOENT;
    }
    bs = bdrv_co_open(filename, NULL, NULL,
                      BDRV_O_RDWR | BDRV_O_RESIZE | BDRV_O_PROTOCOL, NULL);
    *existed = bs;
    if (bs) {
        blk = blk_co_new_with_bs(bs, BLK_PERM_WRITE | BLK_PERM_RESIZE,
                                 BLK_PERM_ALL, errp);
        bdrv_co_unref(bs);
        if (!blk) {
            return -EPERM;
        }
        ret = node_ask(blk, layout, prealloc, errp);
        blk_co_unref(blk);
        return ret;
    }
    bs = bdrv_co_open(filename, NULL, NULL, BDRV_O_PROTOCOL, NULL);
    if (bs) {
        /* It can't be written to, which will be told by who tries. */
        *existed = true;
        bdrv_co_unref(bs);
        return 0;
    }
    if (prealloc == PREALLOC_MODE_FALLOC && protocol->create_opts &&
        !protocol_preallocates(protocol)) {
        error_setg(errp, "Protocol '%s' " VHDX_NO_FALLOC,
                   protocol->format_name);
        return -ENOTSUP;
    }
    return 0;
}

/* Make the file @filename, and in it the image of @layout. */
static int coroutine_fn
create_in_file(const char *filename, QemuOpts *opts,
               const VHDXCreateOptions *parsed, VHDXLayout *layout,
               Error **errp)
{
    BlockDriverState *bs;
    bool existed;
    int ret;

    ret = file_ask(filename, layout, parsed->prealloc, &existed, errp);
    if (ret < 0) {
        return ret;
    }
    ret = vhdx_create_file(filename, opts, errp);
    if (ret < 0) {
        return ret;
    }
    bs = bdrv_co_open(filename, NULL, NULL,
                      BDRV_O_RDWR | BDRV_O_RESIZE | BDRV_O_PROTOCOL, errp);
    if (!bs) {
        return -EIO;
    }
    ret = create_on_node(bs, parsed, layout, errp);
    if (ret < 0 && !existed) {
        GRAPH_RDLOCK_GUARD();
        bdrv_co_delete_file_noerr(bs);
    }
    bdrv_co_unref(bs);
    return ret;
}

int coroutine_fn vhdx_co_create_opts(BlockDriver *drv, const char *filename,
                                     QemuOpts *opts, Error **errp)
{
    g_autoptr(BlockdevCreateOptions) create_options = NULL;
    VHDXCreateOptions parsed;
    VHDXLayout layout;
    int ret;

    create_options = vhdx_options_from_opts(opts, errp);
    if (!create_options) {
        return -EINVAL;
    }
    ret = vhdx_options_parse(&create_options->u.vhdx, &parsed, errp);
    if (ret < 0) {
        return ret;
    }
    /* Who has to have one that is there has looked at it. */
    parsed.unseen_parent = true;
    ret = create_plan(filename, &parsed, &layout, errp);
    if (ret < 0) {
        return ret;
    }
    ret = create_in_file(filename, opts, &parsed, &layout, errp);
    g_clear_pointer(&layout.items, g_array_unref);
    return ret;
}
