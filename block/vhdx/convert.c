/*
 * VHDX: what a copy takes from its source
 *
 * Partition tables and most file systems count in logical sectors, so a copy of
 * a disk is only of use if its sectors are as long as the source's.  Other
 * formats leave the sector size to whoever runs the guest; in a VHDX image it
 * is written down, and qemu-img and the jobs that make copies ask here for it.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#ifdef CONFIG_LINUX
#include <linux/fs.h>
#endif
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/option.h"
#include "block/vhdx/compat.h"
#include "block/vhdx/convert.h"

#define OPT_LOGICAL_SECTOR  "logical_sector_size"
#define DEFAULT_SECTOR      512

static bool is_vhdx(const char *format)
{
    return !strcmp(format, "vhdx");
}

/* The logical sector size of @blk in bytes, or 0 where nothing tells. */
static uint32_t logical_sector(BlockBackend *blk)
{
    BlockSizes sizes;

    if (blk_probe_blocksizes(blk, &sizes) == 0) {
        return sizes.log;
    }
#ifdef BLKSSZGET
    int bytes = 0;

    /* Through a raw image this gets to the device, and nowhere else. */
    if (blk_ioctl(blk, BLKSSZGET, &bytes) >= 0 && bytes > 0) {
        return bytes;
    }
#endif
    return 0;
}

void vhdx_convert_options(BlockDriver *drv, QemuOpts *opts,
                          BlockBackend *source)
{
    if (is_vhdx(drv->format_name) && !qemu_opt_get(opts, OPT_LOGICAL_SECTOR) &&
        logical_sector(source) == 4096) {
        qemu_opt_set_number(opts, OPT_LOGICAL_SECTOR, 4096, &error_abort);
    }
}

char *vhdx_copy_options(BlockDriverState *source, const char *format)
{
    static char options[] = OPT_LOGICAL_SECTOR "=4096";
    BlockSizes sizes;

    GRAPH_RDLOCK_GUARD_MAINLOOP();
    return is_vhdx(format) && bdrv_probe_blocksizes(source, &sizes) == 0 &&
           sizes.log == 4096 ? options : NULL;
}

void vhdx_convert_check(BlockBackend *target, BlockBackend *const *sources,
                        int count)
{
    uint32_t bytes, own;

    if (!is_vhdx(blk_bs(target)->drv->format_name)) {
        return;
    }
    own = logical_sector(target) ?: DEFAULT_SECTOR;
    for (int i = 0; i < count; i++) {
        bytes = logical_sector(sources[i]);
        if (bytes && bytes != own) {
            warn_report("The source has logical sectors of %" PRIu32 " bytes, "
                        "but the VHDX image has %" PRIu32 ": a guest may not "
                        "find the partitions", bytes, own);
            return;
        }
    }
}
