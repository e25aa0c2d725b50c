/*
 * VHDX: new images
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_CREATE_H
#define BLOCK_VHDX_CREATE_H

#include "block/vhdx/state.h"

/*
 * What create is asked for, sizes in bytes.  Zero in @block_size lets the
 * driver choose.
 */
typedef struct VHDXCreateOptions {
    uint64_t size;
    uint64_t log_size;
    uint64_t block_size;
    uint64_t logical_sector;
    uint64_t physical_sector;
    bool fixed;
    bool block_state_zero;
    PreallocMode prealloc;
    VHDXGuid disk_id;
} VHDXCreateOptions;

/* Where everything of a new image goes, bytes from the start of the file. */
typedef struct VHDXLayout {
    VHDXParams params;
    VHDXGeometry geo;
    uint64_t log_offset;
    uint32_t log_length;
    uint64_t bat_offset;
    uint32_t bat_length;
    uint64_t metadata_offset;
    uint32_t metadata_length;
    uint64_t first_block;           /* where payload blocks begin */
    uint64_t file_size;             /* when just created */
    uint64_t full_size;             /* with every payload block present */
    VHDXBlockState state;           /* of every payload block */
} VHDXLayout;

/*
 * Work out the layout of a new image.  A pure function.  Returns 0, or -EINVAL
 * with the option and its value in @errp.
 */
int vhdx_layout_plan(const VHDXCreateOptions *opts, VHDXLayout *layout,
                     Error **errp);

extern QemuOptsList vhdx_create_opts;

int coroutine_fn GRAPH_UNLOCKED
vhdx_co_create(BlockdevCreateOptions *opts, Error **errp);
int coroutine_fn GRAPH_UNLOCKED
vhdx_co_create_opts(BlockDriver *drv, const char *filename, QemuOpts *opts,
                    Error **errp);
BlockMeasureInfo *vhdx_measure(QemuOpts *opts, BlockDriverState *in_bs,
                               Error **errp);

#endif
