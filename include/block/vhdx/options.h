/*
 * VHDX: options of new images
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_OPTIONS_H
#define BLOCK_VHDX_OPTIONS_H

#include "block/vhdx/state.h"

/* The names of options in the form that -o has */
#define VHDX_OPT_LOG_SIZE           "log_size"
#define VHDX_OPT_BLOCK_SIZE         "block_size"
#define VHDX_OPT_BLOCK_STATE_ZERO   "block_state_zero"
#define VHDX_OPT_LOGICAL_SECTOR     "logical_sector_size"
#define VHDX_OPT_PHYSICAL_SECTOR    "physical_sector_size"
#define VHDX_OPT_DISK_ID            "disk_id"

/*
 * What create is asked for, sizes in bytes.  Zero in @block_size lets the
 * driver choose; where there is a parent, zero in others stands for what the
 * parent has, and UINT64_MAX in @size.
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
    VHDXGuid disk_id;               /* nil: the parent's */
    const char *parent;             /* its name, or NULL: there is none */
    bool unseen_parent;             /* it need not be there */
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
    GArray *items;                  /* VHDXItemData that a child has, or NULL */
} VHDXLayout;

/*
 * Work out the layout of a new image.  A pure function.  Returns 0, or -EINVAL
 * with the option and its value in @errp.
 */
int vhdx_layout_plan(const VHDXCreateOptions *opts, VHDXLayout *layout,
                     Error **errp);

/*
 * Take the value @text of disk_id, a GUID that may be in braces.  Returns 0, or
 * -EINVAL with @errp set.
 */
int vhdx_options_parse_disk_id(const char *text, VHDXGuid *guid, Error **errp);

/* Whether a sector can have @value bytes: 0, or -EINVAL with @errp set */
int vhdx_options_check_sector_size(const char *option, uint64_t value,
                                   Error **errp);

/* Whether a log can have @value bytes: likewise */
int vhdx_options_check_log_size(uint64_t value, Error **errp);

/* What -o knows. */
extern QemuOptsList vhdx_create_opts;

/*
 * Take QAPI options, filling in the defaults.  Returns 0, or -EINVAL with @errp
 * set.
 */
int vhdx_options_parse(BlockdevCreateOptionsVhdx *vhdx_opts,
                       VHDXCreateOptions *opts, Error **errp);

/*
 * Options of the form that -o has into QAPI's, with the freedom that it gives:
 * values that are not exact are rounded.  The caller frees them.  Returns NULL
 * with @errp set if they are refused.
 */
BlockdevCreateOptions *vhdx_options_from_opts(QemuOpts *opts, Error **errp);

/*
 * How long the file of a new image is, and will be with all its blocks, bytes;
 * @in_bs is what it becomes a copy of, or NULL.  The caller frees the answer.
 * Returns NULL with @errp set on error.
 */
BlockMeasureInfo *vhdx_measure(QemuOpts *opts, BlockDriverState *in_bs,
                               Error **errp);

#endif
