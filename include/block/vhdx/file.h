/*
 * VHDX: the file behind the image
 *
 * All I/O to the protocol node of an open image goes through here, but for one
 * look at the BAT outside of a coroutine, in vhdx.c.  lock is not held by what
 * reads, writes, flushes or asks the node.  It returns 0 or -errno where
 * nothing else is said.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_FILE_H
#define BLOCK_VHDX_FILE_H

#include "block/vhdx/lock.h"

/* -- Its length, in bytes -- */

/* Begin with a file that is known to be @size bytes long.  No lock is held. */
void vhdx_file_init(BDRVVHDXState *s, uint64_t size);
void vhdx_file_free(BDRVVHDXState *s);

/* @s is the image of @old, loaded anew: what its file has lost is not back. */
void vhdx_file_inherit(BDRVVHDXState *s, BDRVVHDXState *old);

/*
 * How long the file is, as far as it is known, or will be when a cut has been
 * done.  lock, commit_lock or grow_lock is held.
 */
uint64_t vhdx_file_size(BDRVVHDXState *s);

/* Note that it is @size bytes long.  lock is held. */
void vhdx_file_set_size(BDRVVHDXState *s, uint64_t size);

/*
 * How much of that was there when it was flushed the last time.  lock is held.
 */
uint64_t vhdx_file_stable_size(BDRVVHDXState *s);

/*
 * Ask the node and all below it; the block layer alone would tell what it knew
 * before.
 */
int64_t coroutine_fn GRAPH_RDLOCK vhdx_file_length(BlockDriverState *bs);

/*
 * The same where another process may have made it longer: who writes to the
 * image does so before there are entries that name the new part.  Sets the size
 * if it is more.  grow_lock is held, or no request is under way.
 */
int coroutine_fn GRAPH_RDLOCK vhdx_file_learn_length(BlockDriverState *bs);

/*
 * Change it to @size bytes.  What is known of it stays as it is.  commit_lock
 * or grow_lock is held, or no request is under way.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_file_truncate(BlockDriverState *bs, uint64_t size, PreallocMode prealloc,
                   BdrvRequestFlags flags);

/*
 * Whether the error @ret of changing a node's length means that its length
 * can't be changed, or not this way.
 */
static inline bool vhdx_file_length_refused(int ret)
{
    return ret == -EINVAL || ret == -ENOTSUP || ret == -EPERM;
}

/*
 * Whether the error @ret means that the storage is full: it fails a request
 * alone, which may be tried again.  EFBIG is a limit of the file's size, of the
 * process or of the file system.
 */
static inline bool vhdx_file_no_space(int ret)
{
    return ret == -ENOSPC || ret == -EDQUOT || ret == -EFBIG;
}

/* Whether the node has refused to grow; lock is held. */
bool vhdx_file_is_fixed(BDRVVHDXState *s);
void vhdx_file_set_fixed(BDRVVHDXState *s, bool fixed);

/* -- What is written to it -- */

#define VHDX_WATCH_UNIT     ((uint64_t)16 * KiB)

/*
 * A part of the file that is being copied, of @bytes bytes at @offset: @written
 * has a bit for each VHDX_WATCH_UNIT of it that a write, a zeroing, a discard
 * or a cut has ended in, well or not.  Such a bit is set before the request
 * ends that it is a part of.  lock is held where @written is looked at or
 * changed.
 */
struct VHDXWatch {
    uint64_t offset;
    uint64_t bytes;
    unsigned long *written;
    QLIST_ENTRY(VHDXWatch) next;
};

/* Begin and end to watch.  lock is held. */
void vhdx_file_watch(BDRVVHDXState *s, VHDXWatch *watch);
void vhdx_file_unwatch(BDRVVHDXState *s, VHDXWatch *watch);

/* @bytes bytes at @offset have been written to.  No lock is held. */
void vhdx_file_note_written(BDRVVHDXState *s, uint64_t offset, uint64_t bytes);

static inline void vhdx_file_written(BDRVVHDXState *s, uint64_t offset,
                                     uint64_t bytes)
{
    if (unlikely(qatomic_read(&s->watched))) {
        vhdx_file_note_written(s, offset, bytes);
    }
}

/* -- What of it is stable -- */

/*
 * Flush it.  After an error nothing is known of what was written, or how the
 * length was changed, since the last flush, and nothing that is flushed later
 * makes that good.  commit_lock is held.
 */
int coroutine_fn GRAPH_RDLOCK vhdx_file_flush(BlockDriverState *bs);

/*
 * Whether changes of the length may be lost, until vhdx_file_set_sure().
 * commit_lock is held.
 */
bool vhdx_file_is_unsure(BDRVVHDXState *s);
void vhdx_file_set_sure(BDRVVHDXState *s);

/* How many flushes have failed.  No lock is needed. */
unsigned vhdx_file_flushes_failed(BDRVVHDXState *s);

/*
 * Whether what reads as zeros still does so after a power cut: not when a flush
 * has failed.  No lock is needed.
 */
bool vhdx_file_trusts_zeroes(BDRVVHDXState *s);

/* -- What it holds -- */

/*
 * What is known of the file from @offset on, as flags BDRV_BLOCK_ZERO and
 * BDRV_BLOCK_DATA; @n gets how many bytes that is true for, from 1 to @bytes.
 * BDRV_BLOCK_EOF alone tells that the file has ended before.  Where the node
 * can't tell, all may be data.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_file_extent(BlockDriverState *bs, uint64_t offset, uint64_t bytes,
                 int64_t *n);

static inline int coroutine_fn GRAPH_RDLOCK
vhdx_file_preadv(BlockDriverState *bs, uint64_t offset, uint64_t bytes,
                 QEMUIOVector *qiov, size_t qiov_offset)
{
    vhdx_assert_unlocked((BDRVVHDXState *)bs->opaque);
    return bdrv_co_preadv_part(bs->file, offset, bytes, qiov, qiov_offset, 0);
}

static inline int coroutine_fn GRAPH_RDLOCK
vhdx_file_pwritev(BlockDriverState *bs, uint64_t offset, uint64_t bytes,
                  QEMUIOVector *qiov, size_t qiov_offset)
{
    int ret;

    vhdx_assert_unlocked((BDRVVHDXState *)bs->opaque);
    ret = bdrv_co_pwritev_part(bs->file, offset, bytes, qiov, qiov_offset, 0);
    vhdx_file_written(bs->opaque, offset, bytes);
    return ret;
}

int coroutine_fn GRAPH_RDLOCK
vhdx_file_pread(BlockDriverState *bs, uint64_t offset, uint64_t bytes,
                void *buf);
int coroutine_fn GRAPH_RDLOCK
vhdx_file_pwrite(BlockDriverState *bs, uint64_t offset, uint64_t bytes,
                 const void *buf);
int coroutine_fn GRAPH_RDLOCK
vhdx_file_pwrite_zeroes(BlockDriverState *bs, uint64_t offset, uint64_t bytes,
                        BdrvRequestFlags flags);
int coroutine_fn GRAPH_RDLOCK
vhdx_file_pdiscard(BlockDriverState *bs, uint64_t offset, uint64_t bytes);

#endif
