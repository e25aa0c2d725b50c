/*
 * VHDX: new images
 *
 * First the layout is planned: a pure function from options to the place of
 * everything, which also is what measure answers from.  Only when that has
 * found nothing wrong is a file touched.  Then the layout is written, with the
 * encoders and the BAT arithmetic that the rest of the driver uses:
 *
 *      0      file identifier
 *      64 KiB headers, region tables
 *      1 MiB  log
 *             BAT
 *             metadata region
 *             payload blocks (fixed images)
 *
 * The node written to may have any content and any length, and may be unable
 * to change the latter.  So nothing is taken to be zero that has not just been
 * made so, and the file identifier comes last: a half-made image is none.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-visit-block-core.h"
#include "qapi/qobject-input-visitor.h"
#include "qemu/error-report.h"
#include "qemu/memalign.h"
#include "qemu/option.h"
#include "block/qdict.h"
#include "block/vhdx/create.h"

#define OPT_LOG_SIZE            "log_size"
#define OPT_BLOCK_SIZE          "block_size"
#define OPT_BLOCK_STATE_ZERO    "block_state_zero"
#define OPT_LOGICAL_SECTOR      "logical_sector_size"
#define OPT_PHYSICAL_SECTOR     "physical_sector_size"
#define OPT_DISK_ID             "disk_id"

#define DEFAULT_LOG_SIZE        1048576
#define WRITE_BYTES             MiB

/* By so much is a node made longer that may be able to preallocate. */
#define TRIAL_BYTES             (64 * KiB)

QemuOptsList vhdx_create_opts = {
    .name = "vhdx-create-opts",
    .head = QTAILQ_HEAD_INITIALIZER(vhdx_create_opts.head),
    .desc = {
        {
            .name = BLOCK_OPT_SIZE,
            .type = QEMU_OPT_SIZE,
            .help = "Virtual disk size, up to 64 TiB; rounded up to the "
                    "logical sector size; OpenVMM refuses 0"
        },
        {
            .name = BLOCK_OPT_SUBFMT,
            .type = QEMU_OPT_STRING,
            .help = "'dynamic' (grows as it is written to) or 'fixed' (has "
                    "all its blocks from the start); default: dynamic"
        },
        {
            .name = OPT_BLOCK_SIZE,
            .type = QEMU_OPT_SIZE,
            .def_value_str = stringify(0),
            .help = "Payload block size, a power of two from 1 MiB to 256 "
                    "MiB; default: 0, which chooses by disk size, 8 to 64 MiB"
        },
        {
            .name = OPT_LOG_SIZE,
            .type = QEMU_OPT_SIZE,
            .def_value_str = stringify(DEFAULT_LOG_SIZE),
            .help = "Log size, from 1 MiB to under 4 GiB; rounded up to a "
                    "multiple of 1 MiB; OpenVMM refuses more than 1 GiB; "
                    "default: 1 MiB"
        },
        {
            .name = OPT_BLOCK_STATE_ZERO,
            .type = QEMU_OPT_BOOL,
            .help = "Whether the blocks of a new dynamic image have the state "
                    "ZERO rather than NOT_PRESENT ('on' or 'off'); default: "
                    "on, which lets 'qemu-img convert' skip zeros"
        },
        {
            .name = OPT_LOGICAL_SECTOR,
            .type = QEMU_OPT_SIZE,
            .help = "Logical sector size that a guest sees, 512 or 4096; "
                    "default: 512, for a copy that of its source"
        },
        {
            .name = OPT_PHYSICAL_SECTOR,
            .type = QEMU_OPT_SIZE,
            .help = "Physical sector size that a guest sees, 512 or 4096; "
                    "default: 4096"
        },
        {
            .name = BLOCK_OPT_PREALLOC,
            .type = QEMU_OPT_STRING,
            .help = "Preallocation of a fixed image: off, metadata, falloc or "
                    "full; default: off (a sparse file)"
        },
        {
            .name = OPT_DISK_ID,
            .type = QEMU_OPT_STRING,
            .help = "Virtual Disk ID, a GUID other than zero; default: a "
                    "random one"
        },
        {
            .name = BLOCK_OPT_BACKING_FILE,
            .type = QEMU_OPT_STRING,
            .help = "File name of the parent; not supported: differencing "
                    "images cannot be created yet"
        },
        {
            .name = BLOCK_OPT_BACKING_FMT,
            .type = QEMU_OPT_STRING,
            .help = "Format of the parent; means nothing without one"
        },
        { NULL }
    }
};

/* -- Planning -- */

static uint64_t default_block_size(uint64_t disk_size)
{
    if (disk_size > 32 * TiB) {
        return 64 * MiB;
    }
    if (disk_size > 100 * GiB) {
        return 32 * MiB;
    }
    return disk_size > GiB ? 16 * MiB : 8 * MiB;
}

/* Refuse @value of @option for the reason that the message gives. */
static int G_GNUC_PRINTF(4, 5)
refuse(Error **errp, const char *option, uint64_t value,
       const char *format, ...)
{
    ERRP_GUARD();
    g_autofree char *message = NULL;
    va_list ap;

    va_start(ap, format);
    message = g_strdup_vprintf(format, ap);
    va_end(ap);
    error_setg(errp, "%s", message);
    error_append_hint(errp, "The value of %s is %" PRIu64 ".\n", option,
                      value);
    return -EINVAL;
}

static int sector_size_check(const char *option, uint64_t value, Error **errp)
{
    if (value != 512 && value != 4096) {
        error_setg(errp, "Invalid %s %" PRIu64 "; must be 512 or 4096",
                   option, value);
        return -EINVAL;
    }
    return 0;
}

int vhdx_layout_plan(const VHDXCreateOptions *opts, VHDXLayout *layout,
                     Error **errp)
{
    uint64_t block_size = opts->block_size ?: default_block_size(opts->size);
    uint64_t payload;

    if (sector_size_check(OPT_LOGICAL_SECTOR, opts->logical_sector, errp) ||
        sector_size_check(OPT_PHYSICAL_SECTOR, opts->physical_sector, errp)) {
        return -EINVAL;
    }
    if (opts->size > VHDX_MAX_DISK_SIZE) {
        return refuse(errp, BLOCK_OPT_SIZE, opts->size,
                      "Image size too large; max of 64TB");
    }
    if (opts->size % opts->logical_sector) {
        return refuse(errp, BLOCK_OPT_SIZE, opts->size, "Image size must be a "
                      "multiple of the logical sector size of %" PRIu64,
                      opts->logical_sector);
    }
    if (block_size % VHDX_MIB) {
        return refuse(errp, OPT_BLOCK_SIZE, block_size,
                      "Block size must be a multiple of 1 MB");
    }
    if (!is_power_of_2(block_size)) {
        return refuse(errp, OPT_BLOCK_SIZE, block_size,
                      "Block size must be a power of two");
    }
    if (block_size > VHDX_MAX_BLOCK_SIZE) {
        return refuse(errp, OPT_BLOCK_SIZE, block_size,
                      "Block size must not exceed %" PRIu64,
                      VHDX_MAX_BLOCK_SIZE);
    }
    if (!opts->log_size || opts->log_size % VHDX_MIB) {
        return refuse(errp, OPT_LOG_SIZE, opts->log_size,
                      "Log size must be a multiple of 1 MB");
    }
    if (opts->log_size > VHDX_MAX_LOG_SIZE) {
        return refuse(errp, OPT_LOG_SIZE, opts->log_size,
                      "Log size must be smaller than 4 GB");
    }
    if (!opts->fixed && opts->prealloc != PREALLOC_MODE_OFF) {
        error_setg(errp, "Preallocation mode '%s' needs subformat=fixed",
                   PreallocMode_str(opts->prealloc));
        return -EINVAL;
    }

    *layout = (VHDXLayout) {
        .params = {
            .disk_size = opts->size,
            .block_size = block_size,
            .logical_sector = opts->logical_sector,
            .physical_sector = opts->physical_sector,
            .leave_allocated = opts->fixed,
            .disk_id = opts->disk_id,
        },
        .log_offset = VHDX_HEADER_SECTION_SIZE,
        .log_length = opts->log_size,
        .metadata_length = VHDX_MIB,
        .state = opts->fixed ? VHDX_BLOCK_FULLY_PRESENT :
                 opts->block_state_zero ? VHDX_BLOCK_ZERO :
                 VHDX_BLOCK_NOT_PRESENT,
    };
    vhdx_geometry_init(&layout->geo, &layout->params);
    payload = layout->geo.blocks << layout->geo.block_bits;

    layout->bat_offset = layout->log_offset + layout->log_length;
    layout->bat_length = vhdx_bat_region_length(&layout->geo);
    layout->metadata_offset = layout->bat_offset + layout->bat_length;
    layout->first_block = layout->metadata_offset + layout->metadata_length;
    layout->full_size = layout->first_block + payload;
    layout->file_size = opts->fixed ? layout->full_size : layout->first_block;
    return 0;
}

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
    }
    end = MAX(end, length) + TRIAL_BYTES;
    /* Zeros are written to a node that is long enough and can't grow. */
    if (ret == 0 && prealloc == PREALLOC_MODE_FALLOC &&
        node_truncate(blk, end, PREALLOC_MODE_OFF, &zero, NULL) == 0) {
        ret = node_grow(blk, layout, end + TRIAL_BYTES, prealloc, &zero, errp);
    }
    if (length < layout->file_size || prealloc == PREALLOC_MODE_FALLOC) {
        /* What has failed may have taken effect all the same. */
        (void)blk_co_truncate(blk, length, false, PREALLOC_MODE_OFF, 0, NULL);
    }
    return ret;
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
        header.sequence = i + 1;
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
    int ret = 0;

    if (layout->state == VHDX_BLOCK_NOT_PRESENT) {
        return blk_co_pwrite_zeroes(blk, layout->bat_offset,
                                    layout->bat_length, BDRV_REQ_MAY_UNMAP);
    }
    for (uint64_t at = 0; at < layout->bat_length && ret == 0;
         at += WRITE_BYTES) {
        vhdx_bat_fill(&layout->geo, at / VHDX_BAT_ENTRY_SIZE,
                      WRITE_BYTES / VHDX_BAT_ENTRY_SIZE, layout->state,
                      first_block, buf);
        ret = blk_co_pwrite(blk, layout->bat_offset + at, WRITE_BYTES, buf, 0);
    }
    return ret;
}

/* Write everything but the file identifier, then that. */
static int coroutine_fn
write_layout(BlockBackend *blk, const VHDXLayout *layout, bool zero_payload,
             BdrvRequestFlags zero_flags, uint8_t *buf)
{
    uint64_t payload = layout->file_size - layout->first_block;
    int ret;

    ret = blk_co_pwrite_zeroes(blk, 0, VHDX_FILE_ID_SIZE, 0);
    if (ret == 0) {
        ret = blk_co_flush(blk);
    }
    if (ret == 0) {
        ret = write_bat(blk, layout, buf);
    }
    if (ret == 0) {
        memset(buf, 0, layout->metadata_length);
        vhdx_metadata_encode(&layout->params, buf);
        ret = blk_co_pwrite(blk, layout->metadata_offset,
                            layout->metadata_length, buf, 0);
    }
    if (ret == 0 && !(zero_flags & BDRV_REQ_MAY_UNMAP)) {
        /* No request to preallocated payload fails for want of space. */
        ret = blk_co_pwrite_zeroes(blk, layout->log_offset, layout->log_length,
                                   zero_flags);
    }
    if (ret == 0 && zero_payload && payload) {
        ret = blk_co_pwrite_zeroes(blk, layout->first_block, payload,
                                   zero_flags);
    }
    if (ret == 0) {
        encode_header_section(layout, buf);
        ret = blk_co_pwrite(blk, VHDX_FILE_ID_SIZE,
                            VHDX_HEADER_SECTION_SIZE - VHDX_FILE_ID_SIZE,
                            buf + VHDX_FILE_ID_SIZE, 0);
    }
    if (ret == 0) {
        ret = blk_co_flush(blk);
    }
    if (ret == 0) {
        ret = blk_co_pwrite(blk, 0, VHDX_FILE_ID_SIZE, buf, 0);
    }
    if (ret == 0) {
        ret = blk_co_flush(blk);
    }
    return ret;
}

/* -- Options -- */

/* Take a GUID, also in the braces in which Windows prints it. */
static int disk_id_parse(const char *text, VHDXGuid *guid, Error **errp)
{
    size_t length = strlen(text);
    bool braces = length > 2 && text[0] == '{' && text[length - 1] == '}';
    g_autofree char *inner = braces ? g_strndup(text + 1, length - 2) :
                             g_strdup(text);

    if (uuid_parse(inner, guid->id) < 0 || vhdx_guid_is_nil(guid)) {
        error_setg(errp, "Invalid %s '%s'; must be a GUID%s", OPT_DISK_ID,
                   text, vhdx_guid_is_nil(guid) ? " other than zero" : "");
        return -EINVAL;
    }
    return 0;
}

/* Take QAPI options, filling in the defaults. */
static int parse_options(BlockdevCreateOptionsVhdx *vhdx_opts,
                         VHDXCreateOptions *opts, Error **errp)
{
    const char *disk_id = vhdx_qapi_str(vhdx_opts, disk_id);

    *opts = (VHDXCreateOptions) {
        .size = vhdx_opts->size,
        .log_size = vhdx_opts->has_log_size ? vhdx_opts->log_size :
                    DEFAULT_LOG_SIZE,
        .block_size = vhdx_opts->has_block_size ? vhdx_opts->block_size : 0,
        .logical_sector = vhdx_opts->has_logical_sector_size ?
                          vhdx_opts->logical_sector_size : 512,
        .physical_sector = vhdx_opts->has_physical_sector_size ?
                           vhdx_opts->physical_sector_size : 4096,
        .fixed = vhdx_opts->has_subformat &&
                 vhdx_opts->subformat == BLOCKDEV_VHDX_SUBFORMAT_FIXED,
        .block_state_zero = !vhdx_opts->has_block_state_zero ||
                            vhdx_opts->block_state_zero,
        .prealloc = vhdx_opts->has_preallocation ? vhdx_opts->preallocation :
                    PREALLOC_MODE_OFF,
        .disk_id = vhdx_guid_new(),
    };
    if (vhdx_opts->has_block_size && !vhdx_opts->block_size) {
        return refuse(errp, OPT_BLOCK_SIZE, 0,
                      "Block size must be a multiple of 1 MB");
    }
    return disk_id ? disk_id_parse(disk_id, &opts->disk_id, errp) : 0;
}

int coroutine_fn vhdx_co_create(BlockdevCreateOptions *create_options,
                                Error **errp)
{
    BlockdevCreateOptionsVhdx *vhdx_opts = &create_options->u.vhdx;
    VHDXCreateOptions opts;
    VHDXLayout layout;
    BlockDriverState *bs;
    BlockBackend *blk;
    bool zero = false, full = false, prealloc;
    uint8_t *buf;
    int ret;

    assert(create_options->driver == BLOCKDEV_DRIVER_VHDX);
    ret = parse_options(vhdx_opts, &opts, errp);
    if (ret == 0) {
        ret = vhdx_layout_plan(&opts, &layout, errp);
    }
    if (ret < 0) {
        return ret;
    }

    bs = bdrv_co_open_blockdev_ref(vhdx_opts->file, errp);
    if (!bs) {
        return -EIO;
    }
    blk = blk_co_new_with_bs(bs, BLK_PERM_WRITE | BLK_PERM_RESIZE,
                             BLK_PERM_ALL, errp);
    if (!blk) {
        bdrv_co_unref(bs);
        return -EPERM;
    }
    blk_set_allow_write_beyond_eof(blk, true);
    if (opts.physical_sector < opts.logical_sector) {
        warn_report("A " OPT_PHYSICAL_SECTOR " of %" PRIu64 " is less than "
                    "the " OPT_LOGICAL_SECTOR " of %" PRIu64,
                    opts.physical_sector, opts.logical_sector);
    }

    ret = node_ask(blk, &layout, opts.prealloc, errp);
    if (ret == 0) {
        ret = node_resize(blk, &layout, opts.prealloc, &zero, &full, errp);
    }
    if (ret == 0) {
        prealloc = wants_space(opts.prealloc);
        buf = qemu_blockalign(bs, MAX(WRITE_BYTES, VHDX_HEADER_SECTION_SIZE));
        ret = write_layout(blk, &layout, !zero || (prealloc && !full),
                           prealloc ? 0 : BDRV_REQ_MAY_UNMAP, buf);
        qemu_vfree(buf);
        if (ret < 0) {
            error_setg_errno(errp, -ret, "Could not write the VHDX image");
        }
    }
    blk_co_unref(blk);
    bdrv_co_unref(bs);
    return ret;
}

/*
 * Options of the form that -o has into QAPI's, with the freedom that it gives:
 * values that are not exact are rounded.
 */
static BlockdevCreateOptions *options_from_opts(QemuOpts *opts, Error **errp)
{
    static const QDictRenames opt_renames[] = {
        { OPT_LOG_SIZE,         "log-size" },
        { OPT_BLOCK_SIZE,       "block-size" },
        { OPT_BLOCK_STATE_ZERO, "block-state-zero" },
        { OPT_LOGICAL_SECTOR,   "logical-sector-size" },
        { OPT_PHYSICAL_SECTOR,  "physical-sector-size" },
        { OPT_DISK_ID,          "disk-id" },
        { NULL, NULL },
    };
    BlockdevCreateOptions *create_options = NULL;
    BlockdevCreateOptionsVhdx *o;
    const char *parent;
    uint64_t sector;
    QDict *qdict;
    Visitor *v;

    parent = qemu_opt_get(opts, BLOCK_OPT_BACKING_FILE);
    if (parent) {
        error_setg(errp, "backing_file '%s' is not supported: differencing "
                   "images cannot be created yet", parent);
        return NULL;
    }
    qdict = qemu_opts_to_qdict_filtered(opts, NULL, &vhdx_create_opts, true);
    /* It is about a parent, and programs may give it where there is none. */
    qdict_del(qdict, BLOCK_OPT_BACKING_FMT);
    if (qdict_rename_keys(qdict, opt_renames, errp)) {
        qdict_put_str(qdict, "driver", "vhdx");
        qdict_put_str(qdict, "file", "");
        v = qobject_input_visitor_new_flat_confused(qdict, errp);
        if (v) {
            visit_type_BlockdevCreateOptions(v, NULL, &create_options, errp);
            visit_free(v);
        }
    }
    qobject_unref(qdict);
    if (!create_options) {
        return NULL;
    }

    o = &create_options->u.vhdx;
    sector = o->has_logical_sector_size && o->logical_sector_size == 4096 ?
             4096 : 512;
    if (o->size < VHDX_MAX_DISK_SIZE) {
        o->size = ROUND_UP(o->size, sector);
    }
    if (o->has_log_size && o->log_size < INT64_MAX) {
        o->log_size = ROUND_UP(MAX(o->log_size, 1), VHDX_MIB);
    }
    o->has_block_size &= o->block_size != 0;
    o->block_size = ROUND_UP(MIN(o->block_size, VHDX_MAX_BLOCK_SIZE),
                             VHDX_MIB);
    return create_options;
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

int coroutine_fn vhdx_co_create_opts(BlockDriver *drv, const char *filename,
                                     QemuOpts *opts, Error **errp)
{
    BlockdevCreateOptions *create_options;
    BlockdevRef *file;
    VHDXCreateOptions parsed;
    VHDXLayout layout;
    BlockDriverState *bs;
    bool existed;
    int ret;

    create_options = options_from_opts(opts, errp);
    if (!create_options) {
        return -EINVAL;
    }
    ret = parse_options(&create_options->u.vhdx, &parsed, errp);
    if (ret == 0) {
        ret = vhdx_layout_plan(&parsed, &layout, errp);
    }
    if (ret < 0) {
        goto out;
    }

    ret = file_ask(filename, &layout, parsed.prealloc, &existed, errp);
    if (ret == 0) {
        ret = vhdx_create_file(filename, opts, errp);
    }
    if (ret < 0) {
        goto out;
    }
    bs = bdrv_co_open(filename, NULL, NULL,
                      BDRV_O_RDWR | BDRV_O_RESIZE | BDRV_O_PROTOCOL, errp);
    if (!bs) {
        ret = -EIO;
        goto out;
    }
    file = create_options->u.vhdx.file;
    g_free(file->u.reference);
    file->u.reference = g_strdup(bs->node_name);

    ret = vhdx_co_create(create_options, errp);
    if (ret < 0 && !existed) {
        GRAPH_RDLOCK_GUARD();
        bdrv_co_delete_file_noerr(bs);
    }
    bdrv_co_unref(bs);
out:
    qapi_free_BlockdevCreateOptions(create_options);
    return ret;
}

/* -- Measure -- */

/*
 * Payload blocks that hold data once @in_bs is converted to @layout.  What is
 * not known to be zero is copied, also where there is no data to speak of.
 */
static int measure_blocks(BlockDriverState *in_bs, const VHDXLayout *layout,
                          uint64_t *blocks, Error **errp)
{
    int64_t size = layout->params.disk_size;
    int64_t pnum, counted = 0;

    *blocks = 0;
    for (int64_t offset = 0; offset < size; offset += pnum) {
        int ret = bdrv_block_status_above(in_bs, NULL, offset, size - offset,
                                          &pnum, NULL, NULL);
        if (ret < 0) {
            error_setg_errno(errp, -ret, "Could not get the block status of "
                             "the source");
            return ret;
        }
        if (!pnum) {
            break;
        }
        if (!(ret & BDRV_BLOCK_ZERO)) {
            int64_t first = MAX(offset >> layout->geo.block_bits, counted);
            int64_t end = ((offset + pnum - 1) >> layout->geo.block_bits) + 1;

            *blocks += MAX(end - first, 0);
            counted = MAX(counted, end);
        }
    }
    return 0;
}

BlockMeasureInfo *vhdx_measure(QemuOpts *opts, BlockDriverState *in_bs,
                               Error **errp)
{
    BlockdevCreateOptions *create_options;
    VHDXCreateOptions parsed;
    BlockMeasureInfo *info;
    VHDXLayout layout;
    uint64_t blocks = 0;
    int ret;

    if (in_bs) {
        int64_t length = bdrv_getlength(in_bs);

        if (length < 0) {
            error_setg_errno(errp, -length, "Could not get the length of the "
                             "source");
            return NULL;
        }
        if (!qemu_opt_set_number(opts, BLOCK_OPT_SIZE, length, errp)) {
            return NULL;
        }
    }
    create_options = options_from_opts(opts, errp);
    if (!create_options) {
        return NULL;
    }
    ret = parse_options(&create_options->u.vhdx, &parsed, errp);
    qapi_free_BlockdevCreateOptions(create_options);
    if (ret == 0) {
        ret = vhdx_layout_plan(&parsed, &layout, errp);
    }
    if (ret == 0 && in_bs && !parsed.fixed) {
        ret = measure_blocks(in_bs, &layout, &blocks, errp);
    }
    if (ret < 0) {
        return NULL;
    }
    info = g_new0(BlockMeasureInfo, 1);
    info->required = layout.file_size + (blocks << layout.geo.block_bits);
    info->fully_allocated = layout.full_size;
    return info;
}
