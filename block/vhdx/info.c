/*
 * VHDX: what is told about an image
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/vhdx/info.h"
#include "block/vhdx/locator.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/replay.h"

static char *guid_string(const VHDXGuid *guid)
{
    char *str = g_malloc(UUID_STR_LEN);

    uuid_unparse_lower(guid->id, str);
    return str;
}

static VhdxParentLocator *parent_info(const VHDXLocator *loc)
{
    VhdxParentLocator *info = g_new0(VhdxParentLocator, 1);

    *info = (VhdxParentLocator) {
        .linkage = guid_string(&loc->linkage),
        .linkage2 = vhdx_guid_is_nil(&loc->linkage2) ? NULL :
                    guid_string(&loc->linkage2),
        .relative_path = g_strdup(loc->relative_path),
        .volume_path = g_strdup(loc->volume_path),
        .absolute_win32_path = g_strdup(loc->absolute_win32_path),
    };
    vhdx_qapi_has(info, linkage2);
    vhdx_qapi_has(info, relative_path);
    vhdx_qapi_has(info, volume_path);
    vhdx_qapi_has(info, absolute_win32_path);
    return info;
}

ImageInfoSpecific *vhdx_info(BDRVVHDXState *s, const VHDXFigures *figures)
{
    ImageInfoSpecific *info = g_new0(ImageInfoSpecific, 1);
    ImageInfoSpecificVhdx *vhdx = g_new0(ImageInfoSpecificVhdx, 1);
    VhdxParentLocator *parent;
    VHDXHeader header;

    WITH_VHDX_LOCK_GUARD(s) {
        header = s->header;
        parent = s->locator ? parent_info(s->locator) : NULL;
    }
    *vhdx = (ImageInfoSpecificVhdx) {
        .subformat = s->params.has_parent ?
                     BLOCKDEV_VHDX_SUBFORMAT_DIFFERENCING :
                     s->params.leave_allocated ?
                     BLOCKDEV_VHDX_SUBFORMAT_FIXED :
                     BLOCKDEV_VHDX_SUBFORMAT_DYNAMIC,
        .block_size = s->params.block_size,
        .logical_sector_size = s->params.logical_sector,
        .physical_sector_size = s->params.physical_sector,
        .log_size = header.log_length,
        .log_dirty = vhdx_replay_active(s),
        .disk_uuid = guid_string(&s->params.disk_id),
        .data_write_uuid = guid_string(&header.data_write_guid),
        .file_write_uuid = guid_string(&header.file_write_guid),
        .creator = g_strdup(s->creator),
        .file_too_short_by = figures->missing,
        .compact_gains = MAX(figures->gains, 0),
        .bitmaps = figures->bitmaps,
        .parent = parent,
        .parent_error = s->params.has_parent && !parent ?
                        g_strdup(s->locator_error) : NULL,
    };
    vhdx->has_file_too_short_by = figures->missing;
    vhdx->has_compact_gains = figures->gains >= 0;
    vhdx->has_bitmaps = figures->bitmaps;
    vhdx_qapi_has(vhdx, parent);
    vhdx_qapi_has(vhdx, parent_error);
    info->type = IMAGE_INFO_SPECIFIC_KIND_VHDX;
    info->u.vhdx.data = vhdx;
    return info;
}
