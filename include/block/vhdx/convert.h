/*
 * VHDX: what a copy takes from its source
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_CONVERT_H
#define BLOCK_VHDX_CONVERT_H

/*
 * If a new image of format @drv, a copy of @source with the create options
 * @opts, is VHDX and @opts say nothing of its logical sector size, let that be
 * the source's, if it can be.
 */
void vhdx_convert_options(BlockDriver *drv, QemuOpts *opts,
                          BlockBackend *source);

/*
 * The create options, or NULL, for a new image of @format that a job is to make
 * a copy of @source: the same, but for devices, which are not asked.  The main
 * loop calls it, without the graph lock.  They are not the caller's.
 */
char *vhdx_copy_options(BlockDriverState *source, const char *format);

/*
 * Warn if @target is VHDX and has another logical sector size than one of the
 * @count @sources, of which, one behind the other, it becomes a copy.
 */
void vhdx_convert_check(BlockBackend *target, BlockBackend *const *sources,
                        int count);

#endif
