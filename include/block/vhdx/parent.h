/*
 * VHDX: the parent of a differencing image
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_PARENT_H
#define BLOCK_VHDX_PARENT_H

#include "block/vhdx/lock.h"

/*
 * Begin with an image of which nothing is known; it is @inactive, and a parent
 * is @given by the options.  No lock is held.
 */
void vhdx_parent_init(BDRVVHDXState *s, bool inactive, bool given);
void vhdx_parent_free(BDRVVHDXState *s);

/* Whether @options, those of an image to be opened, have a parent for it. */
bool vhdx_parent_is_given(QDict *options);

/* Whether the parent was found beside the child, and no path leads there. */
bool vhdx_parent_is_guessed(BDRVVHDXState *s);

/* So many images may be in a chain. */
#define VHDX_MAX_CHAIN  256

/* How many images @bs and the parents attached below it are */
unsigned GRAPH_RDLOCK vhdx_parent_count(BlockDriverState *bs);

/* Say that there are more. */
void vhdx_parent_error_chain(Error **errp);

/* A parent has been named that is to be found. */
void vhdx_parent_set_named(BDRVVHDXState *s);

/* The image that is attached as parent of @bs, or NULL if there is none. */
BlockDriverState *GRAPH_RDLOCK vhdx_parent_node(BlockDriverState *bs);

/*
 * The same if it is the one that the locator tells the DataWriteGuid of, or has
 * to: so an image in VHDX format.  Else NULL.
 */
BlockDriverState *GRAPH_RDLOCK vhdx_parent_linked(BlockDriverState *bs);

/*
 * The image in VHDX format beneath @bs, if it has a parent itself and a read of
 * a range, of bytes of the disk, that it has nothing of may pass by it, as the
 * block layer would do nothing else with it: no filter stands between, and
 * nothing is to be copied.  Who drains it waits for the request to @bs all the
 * same.  Else NULL.
 */
BlockDriverState *GRAPH_RDLOCK
vhdx_parent_beneath(BlockDriverState *bs, uint64_t offset, uint64_t bytes);

/*
 * Whether the locator has @guid, a DataWriteGuid other than nil, as one of its
 * linkages; and that of the open image @bs, which may be a parent.  lock is not
 * held.
 */
bool vhdx_parent_is_told(BDRVVHDXState *s, const VHDXGuid *guid);
VHDXGuid vhdx_parent_data_write(BlockDriverState *bs);

/* Whether the image that was attached last is that one; it may be gone. */
bool vhdx_parent_was_linked(BDRVVHDXState *s);

/*
 * Whether the locator has to be written before the image is changed: the parent
 * has another DataWriteGuid, or the second linkage is left from a change of the
 * parent that was cut off.  lock is not held.
 */
bool vhdx_parent_link_is_due(BDRVVHDXState *s);
void vhdx_parent_set_link_due(BDRVVHDXState *s);

/*
 * The locator tells the DataWriteGuid of the parent that is attached, or names
 * none that is known here.
 */
void vhdx_parent_set_linked(BDRVVHDXState *s, bool linked);

/*
 * @bs is about to be closed: the parent, which a thread may be changing, does
 * not look at it any more.  @opaque is not used.  Returns 0.  The parent's
 * commit_lock is not held.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_parent_leave(BlockDriverState *bs, void *opaque, Error **errp);

/*
 * The parent that is attached is not what the image was made for any more, as
 * it has been changed, or there has to be one that is not there: what it has
 * can't be read.  That ends when another is attached.
 */
void vhdx_parent_lose(BDRVVHDXState *s);
bool vhdx_parent_is_lost(BDRVVHDXState *s);

/* Report that for @bs, once.  Returns -EIO, for what would have read of it. */
int vhdx_parent_report_lost(BlockDriverState *bs);

/*
 * What is attached is to be judged again, as what a user has given: another
 * process may have changed the image, or given it another parent.
 */
void vhdx_parent_forget(BDRVVHDXState *s);

/*
 * Whether another process may be changing the image; whether the user is about
 * to attach another parent; whether a reopen has made it writable, and if so
 * only that its parent can be written to: vhdx_parent_hold_writable() returns
 * what that was before.  They are set in the main loop.
 */
void vhdx_parent_set_inactive(BDRVVHDXState *s, bool inactive);
void vhdx_parent_set_reopening(BDRVVHDXState *s, bool reopening);
void vhdx_parent_set_got_writable(BDRVVHDXState *s, bool writable);
bool vhdx_parent_got_writable(BDRVVHDXState *s);
bool vhdx_parent_hold_writable(BDRVVHDXState *s, bool hold);

/*
 * The name of the file at the end of what is below @bs, as a path to be freed
 * with g_free(), or NULL if it is no local file.
 */
char *GRAPH_RDLOCK vhdx_parent_local_path(BlockDriverState *bs);

/*
 * Read @bytes bytes at @offset of the disk as the parent has them: zeros behind
 * its end, or where none is attached.  lock is not held.  Returns 0 or -errno.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_parent_preadv(BlockDriverState *bs, uint64_t offset, uint64_t bytes,
                   QEMUIOVector *qiov, size_t qiov_offset);

/*
 * Let the block layer know of the parent of @bs, a differencing image that has
 * been loaded, by its locator, for which files are looked for.  Where there is
 * none, that is told by vhdx_parent_dirname().  Returns 0, or -EINVAL with
 * @errp set where it is @bs itself.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_parent_name(BlockDriverState *bs, Error **errp);

#endif
