/*
 * VHDX: options of new images
 *
 * What create and measure are asked for comes as QAPI's options, or in the form
 * that -o has, with more freedom.  Both become the same numbers, which are
 * checked, and from which the layout is planned: a pure function from options
 * to the place of everything.  It is what is written, and what measure answers
 * from:
 *
 *      0      file identifier
 *      64 KiB headers, region tables
 *      1 MiB  log
 *             BAT
 *             metadata region
 *             payload blocks (fixed images)
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-visit-block-core.h"
#include "qapi/qobject-input-visitor.h"
#include "qemu/option.h"
#include "block/dirty-bitmap.h"
#include "block/qdict.h"
#include "block/vhdx/dirty-bitmaps.h"
#include "block/vhdx/options.h"

#define DEFAULT_LOG_SIZE        1048576

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
            .help = "'dynamic' (grows as it is written to), 'fixed' (has all "
                    "its blocks from the start) or 'differencing' (has a "
                    "parent); default: dynamic, with a parent differencing"
        },
        {
            .name = VHDX_OPT_BLOCK_SIZE,
            .type = QEMU_OPT_SIZE,
            .def_value_str = stringify(0),
            .help = "Payload block size, a power of two from 1 MiB to 256 "
                    "MiB, as which less and more count; default: 0, which "
                    "chooses by disk size, 8 to 64 MiB, with a parent 2 MiB"
        },
        {
            .name = VHDX_OPT_LOG_SIZE,
            .type = QEMU_OPT_SIZE,
            .def_value_str = stringify(DEFAULT_LOG_SIZE),
            .help = "Log size, from 1 MiB to under 4 GiB; rounded up to a "
                    "multiple of 1 MiB; OpenVMM refuses more than 1 GiB; "
                    "default: 1 MiB"
        },
        {
            .name = VHDX_OPT_BLOCK_STATE_ZERO,
            .type = QEMU_OPT_BOOL,
            .help = "Whether the blocks of a new dynamic image have the state "
                    "ZERO rather than NOT_PRESENT ('on' or 'off'); default: "
                    "on, which lets 'qemu-img convert' skip zeros"
        },
        {
            .name = VHDX_OPT_LOGICAL_SECTOR,
            .type = QEMU_OPT_SIZE,
            .help = "Logical sector size that a guest sees, 512 or 4096; "
                    "default: 512, or that of the source of a copy, or the "
                    "parent's"
        },
        {
            .name = VHDX_OPT_PHYSICAL_SECTOR,
            .type = QEMU_OPT_SIZE,
            .help = "Physical sector size that a guest sees, 512 or 4096; "
                    "default: 4096, or the parent's"
        },
        {
            .name = BLOCK_OPT_PREALLOC,
            .type = QEMU_OPT_STRING,
            .help = "Preallocation of a fixed image: off, metadata, falloc or "
                    "full; default: off (a sparse file)"
        },
        {
            .name = VHDX_OPT_DISK_ID,
            .type = QEMU_OPT_STRING,
            .help = "Virtual Disk ID, a GUID other than zero; default: a "
                    "random one, or the parent's"
        },
        {
            .name = BLOCK_OPT_BACKING_FILE,
            .type = QEMU_OPT_STRING,
            .help = "File name of the parent, a VHDX image"
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

static uint64_t default_block_size(const VHDXCreateOptions *opts)
{
    uint64_t disk_size = opts->size;

    if (opts->parent) {
        /* As Windows has it: no more than single sectors is copied anyway. */
        return 2 * MiB;
    }
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

int vhdx_options_check_sector_size(const char *option, uint64_t value,
                                   Error **errp)
{
    if (value != 512 && value != 4096) {
        error_setg(errp, "Invalid %s %" PRIu64 "; must be 512 or 4096",
                   option, value);
        return -EINVAL;
    }
    return 0;
}

int vhdx_options_check_log_size(uint64_t value, Error **errp)
{
    if (!value || value % VHDX_MIB) {
        return refuse(errp, VHDX_OPT_LOG_SIZE, value,
                      "Log size must be a multiple of 1 MB");
    }
    if (value > VHDX_MAX_LOG_SIZE) {
        return refuse(errp, VHDX_OPT_LOG_SIZE, value,
                      "Log size must be smaller than 4 GB");
    }
    return 0;
}

/* Whether there can be an image of @opts, whose blocks are of @block_size. */
static int options_check(const VHDXCreateOptions *opts, uint64_t block_size,
                         Error **errp)
{
    if (vhdx_options_check_sector_size(VHDX_OPT_LOGICAL_SECTOR,
                                       opts->logical_sector, errp) ||
        vhdx_options_check_sector_size(VHDX_OPT_PHYSICAL_SECTOR,
                                       opts->physical_sector, errp)) {
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
        return refuse(errp, VHDX_OPT_BLOCK_SIZE, block_size,
                      "Block size must be a multiple of 1 MB");
    }
    if (!is_power_of_2(block_size)) {
        return refuse(errp, VHDX_OPT_BLOCK_SIZE, block_size,
                      "Block size must be a power of two");
    }
    if (block_size > VHDX_MAX_BLOCK_SIZE) {
        return refuse(errp, VHDX_OPT_BLOCK_SIZE, block_size,
                      "Block size must not exceed %" PRIu64,
                      VHDX_MAX_BLOCK_SIZE);
    }
    if (vhdx_options_check_log_size(opts->log_size, errp) < 0) {
        return -EINVAL;
    }
    if (!opts->fixed && opts->prealloc != PREALLOC_MODE_OFF) {
        error_setg(errp, "Preallocation mode '%s' needs subformat=fixed",
                   PreallocMode_str(opts->prealloc));
        return -EINVAL;
    }
    return 0;
}

int vhdx_layout_plan(const VHDXCreateOptions *opts, VHDXLayout *layout,
                     Error **errp)
{
    uint64_t block_size = opts->block_size ?: default_block_size(opts);
    uint64_t payload;
    int ret;

    ret = options_check(opts, block_size, errp);
    if (ret < 0) {
        return ret;
    }
    *layout = (VHDXLayout) {
        .params = {
            .disk_size = opts->size,
            .block_size = block_size,
            .logical_sector = opts->logical_sector,
            .physical_sector = opts->physical_sector,
            .leave_allocated = opts->fixed,
            .has_parent = opts->parent,
            .disk_id = opts->disk_id,
        },
        .log_offset = VHDX_HEADER_SECTION_SIZE,
        .log_length = opts->log_size,
        .metadata_length = VHDX_MIB,
        .state = opts->fixed ? VHDX_BLOCK_FULLY_PRESENT :
                 opts->block_state_zero && !opts->parent ? VHDX_BLOCK_ZERO :
                 VHDX_BLOCK_NOT_PRESENT,
    };
    vhdx_geometry_init(&layout->geo, &layout->params);
    payload = layout->geo.blocks << layout->geo.block_bits;

    layout->bat_offset = layout->log_offset + layout->log_length;
    layout->bat_length = vhdx_bat_region_length(&layout->geo);
    layout->metadata_offset = layout->bat_offset + layout->bat_length;
    layout->first_block = layout->metadata_offset + layout->metadata_length;
    layout->full_size = layout->first_block + payload;
    if (opts->parent) {
        layout->full_size += layout->geo.chunks * VHDX_BITMAP_SIZE;
    }
    layout->file_size = opts->fixed ? layout->full_size : layout->first_block;
    return 0;
}

/* -- Parsing -- */

/* Windows prints a GUID in braces. */
int vhdx_options_parse_disk_id(const char *text, VHDXGuid *guid, Error **errp)
{
    size_t length = strlen(text);
    bool braces = length > 2 && text[0] == '{' && text[length - 1] == '}';
    g_autofree char *inner = braces ? g_strndup(text + 1, length - 2) :
                             g_strdup(text);
    bool good = uuid_parse(inner, guid->id) == 0;

    if (!good || vhdx_guid_is_nil(guid)) {
        error_setg(errp, "Invalid %s '%s'; must be a GUID%s", VHDX_OPT_DISK_ID,
                   text, good ? " other than zero" : "");
        return -EINVAL;
    }
    return 0;
}

/* Whether what is said about a parent goes together. */
static int parent_options_check(BlockdevCreateOptionsVhdx *o, Error **errp)
{
    const char *parent = vhdx_qapi_str(o, backing_file);
    const char *format = vhdx_qapi_str(o, backing_fmt);
    bool differencing = o->has_subformat &&
                        o->subformat == BLOCKDEV_VHDX_SUBFORMAT_DIFFERENCING;

    if (!parent && differencing) {
        error_setg(errp, "subformat=differencing needs a parent; give it as "
                   BLOCK_OPT_BACKING_FILE);
        return -EINVAL;
    }
    if (!parent && !o->has_size) {
        error_setg(errp, "An image without a parent needs a size");
        return -EINVAL;
    }
    if (parent && o->has_subformat && !differencing) {
        error_setg(errp, "An image with a parent is differencing, not %s",
                   BlockdevVhdxSubformat_str(o->subformat));
        return -EINVAL;
    }
    if (parent && o->has_preallocation &&
        o->preallocation != PREALLOC_MODE_OFF) {
        error_setg(errp, "Preallocation mode '%s' is not supported for an "
                   "image with a parent", PreallocMode_str(o->preallocation));
        return -EINVAL;
    }
    if (parent && format && strcmp(format, "vhdx")) {
        error_setg(errp, "Parent '%s' is %s, not vhdx: the parent of a VHDX "
                   "image must be in VHDX format", parent, format);
        return -EINVAL;
    }
    return 0;
}

int vhdx_options_parse(BlockdevCreateOptionsVhdx *vhdx_opts,
                       VHDXCreateOptions *opts, Error **errp)
{
    const char *disk_id = vhdx_qapi_str(vhdx_opts, disk_id);
    const char *parent = vhdx_qapi_str(vhdx_opts, backing_file);

    if (parent_options_check(vhdx_opts, errp) < 0) {
        return -EINVAL;
    }
    *opts = (VHDXCreateOptions) {
        .size = vhdx_opts->has_size ? vhdx_opts->size : UINT64_MAX,
        .log_size = vhdx_opts->has_log_size ? vhdx_opts->log_size :
                    DEFAULT_LOG_SIZE,
        .block_size = vhdx_opts->has_block_size ? vhdx_opts->block_size : 0,
        .logical_sector = vhdx_opts->has_logical_sector_size ?
                          vhdx_opts->logical_sector_size : parent ? 0 : 512,
        .physical_sector = vhdx_opts->has_physical_sector_size ?
                           vhdx_opts->physical_sector_size :
                           parent ? 0 : 4096,
        .fixed = vhdx_opts->has_subformat &&
                 vhdx_opts->subformat == BLOCKDEV_VHDX_SUBFORMAT_FIXED,
        .block_state_zero = !vhdx_opts->has_block_state_zero ||
                            vhdx_opts->block_state_zero,
        .prealloc = vhdx_opts->has_preallocation ? vhdx_opts->preallocation :
                    PREALLOC_MODE_OFF,
        .disk_id = parent ? vhdx_guid_nil : vhdx_guid_new(),
        .parent = parent,
    };
    if (vhdx_opts->has_block_size && !vhdx_opts->block_size) {
        return refuse(errp, VHDX_OPT_BLOCK_SIZE, 0,
                      "Block size must be a multiple of 1 MB");
    }
    return disk_id ? vhdx_options_parse_disk_id(disk_id, &opts->disk_id, errp) :
                     0;
}

BlockdevCreateOptions *vhdx_options_from_opts(QemuOpts *opts, Error **errp)
{
    static const QDictRenames opt_renames[] = {
        { VHDX_OPT_LOG_SIZE,          "log-size" },
        { VHDX_OPT_BLOCK_SIZE,        "block-size" },
        { VHDX_OPT_BLOCK_STATE_ZERO,  "block-state-zero" },
        { VHDX_OPT_LOGICAL_SECTOR,    "logical-sector-size" },
        { VHDX_OPT_PHYSICAL_SECTOR,   "physical-sector-size" },
        { VHDX_OPT_DISK_ID,           "disk-id" },
        { BLOCK_OPT_BACKING_FILE,     "backing-file" },
        { BLOCK_OPT_BACKING_FMT,      "backing-fmt" },
        { NULL, NULL },
    };
    BlockdevCreateOptions *create_options = NULL;
    BlockdevCreateOptionsVhdx *o;
    uint64_t sector;
    QDict *qdict;
    Visitor *v;

    qdict = qemu_opts_to_qdict_filtered(opts, NULL, &vhdx_create_opts, true);
    if (!qdict_haskey(qdict, BLOCK_OPT_BACKING_FILE)) {
        /* Programs may give it where there is no parent. */
        qdict_del(qdict, BLOCK_OPT_BACKING_FMT);
    }
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
    if (!vhdx_qapi_str(o, backing_file)) {
        /* The size has a default here. */
        o->has_size = true;
    }
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
    g_autoptr(BlockdevCreateOptions) create_options = NULL;
    VHDXCreateOptions parsed;
    BlockMeasureInfo *info;
    VHDXLayout layout;
    uint64_t blocks = 0;

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
    create_options = vhdx_options_from_opts(opts, errp);
    if (!create_options) {
        return NULL;
    }
    if (vhdx_options_parse(&create_options->u.vhdx, &parsed, errp) < 0) {
        return NULL;
    }
    /* The parent is not asked: little would change by it. */
    parsed.logical_sector = parsed.logical_sector ?: 512;
    parsed.physical_sector = parsed.physical_sector ?: 4096;
    if (vhdx_layout_plan(&parsed, &layout, errp) < 0) {
        return NULL;
    }
    if (in_bs && !parsed.parent && !parsed.fixed &&
        measure_blocks(in_bs, &layout, &blocks, errp) < 0) {
        return NULL;
    }
    info = g_new0(BlockMeasureInfo, 1);
    info->required = layout.file_size + (blocks << layout.geo.block_bits);
    info->fully_allocated = layout.full_size;
    if (in_bs && parsed.parent) {
        /* What of the source differs from the parent is not known. */
        info->required = info->fully_allocated;
    }
    if (in_bs && bdrv_supports_persistent_dirty_bitmap(in_bs)) {
        info->has_bitmaps = true;
        info->bitmaps = vhdx_dirty_measure(in_bs);
    }
    return info;
}
