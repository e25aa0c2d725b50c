/*
 * VHDX: headers
 *
 * An image has two header copies.  The one with the higher sequence number is
 * current; an update goes over the other one, which thereby becomes current,
 * and is repeated on the first, so that in the end both say the same.  At any
 * instant one copy is whole: a torn write spoils only the one that does not
 * count yet.  A copy that is damaged when the image is opened is mended by the
 * first update, as it is the one that is not current.
 *
 * Whoever changes an image changes both copies first.  So two programs that
 * have the same image open for writing find out: each looks now and then
 * whether the copy that counts is still the one it knows.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/memalign.h"
#include "block/vhdx/bat-entry.h"
#include "block/vhdx/change.h"
#include "block/vhdx/file.h"
#include "block/vhdx/header.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/ring.h"
#include "trace.h"

int coroutine_fn vhdx_header_load(BlockDriverState *bs, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    g_autofree uint8_t *buf = g_malloc(VHDX_HEADER_SIZE);
    VHDXHeader headers[2];
    bool valid[2];

    for (int i = 0; i < 2; i++) {
        int ret = vhdx_file_pread(bs, VHDX_HEADER_OFFSET(i),
                                  VHDX_HEADER_SIZE, buf);
        if (ret < 0) {
            error_setg_errno(errp, -ret, "Could not read VHDX header %d",
                             i + 1);
            return ret;
        }
        valid[i] = vhdx_header_decode(buf, &headers[i]);
    }

    s->header_copy = vhdx_header_choose(headers, valid, errp);
    if (s->header_copy < 0) {
        return -EINVAL;
    }
    s->header = headers[s->header_copy];
    qatomic_set(&s->header_unsure, false);
    return vhdx_header_check(&s->header, errp);
}

/*
 * Write @header to @copy, which is not the one that counts, and flush: from
 * then on it does.
 */
static int coroutine_fn GRAPH_RDLOCK
header_write(BlockDriverState *bs, int copy, const VHDXHeader *header)
{
    BDRVVHDXState *s = bs->opaque;
    uint8_t *buf = qemu_blockalign(bs->file->bs, VHDX_HEADER_SIZE);
    int ret;

    vhdx_header_encode(header, buf);
    qatomic_set(&s->header_unsure, true);
    BLKDBG_CO_EVENT(bs->file, BLKDBG_REFTABLE_UPDATE);
    ret = vhdx_file_pwrite(bs, VHDX_HEADER_OFFSET(copy), VHDX_HEADER_SIZE,
                           buf);
    qemu_vfree(buf);
    ret = ret < 0 ? ret : vhdx_ring_flush(bs);
    trace_vhdx_header_write(s, copy, header->sequence, ret);
    if (ret < 0) {
        return ret;
    }
    /* Requests read the log's place meanwhile, if that stays as it is. */
    WITH_VHDX_LOCK_GUARD(s) {
        s->header.sequence = header->sequence;
        s->header.file_write_guid = header->file_write_guid;
        s->header.data_write_guid = header->data_write_guid;
        s->header.log_guid = header->log_guid;
        s->header.log_version = header->log_version;
        if (header->log_offset != s->header.log_offset ||
            header->log_length != s->header.log_length) {
            s->header.log_offset = header->log_offset;
            s->header.log_length = header->log_length;
            vhdx_bat_note_objects(s);
        }
    }
    s->header_copy = copy;
    qatomic_set(&s->header_unsure, false);
    return 0;
}

/* [header-order] */
int coroutine_fn vhdx_header_update(BlockDriverState *bs,
                                    const VHDXHeader *header, int copies)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXHeader next;
    int ret = 0;

    vhdx_assert_commit_locked(s);
    if (s->header.sequence > UINT64_MAX - copies) {
        /*
         * There is no higher number.  Both copies say the same for a while, and
         * this one with a low number: the other is the next to be written over.
         */
        next = s->header;
        next.sequence = 1;
        ret = header_write(bs, !s->header_copy, &next);
    }
    for (int i = 0; i < copies && ret == 0; i++) {
        next = *header;
        next.sequence = s->header.sequence + 1;
        ret = header_write(bs, !s->header_copy, &next);
    }
    return ret;
}

int coroutine_fn vhdx_header_settle(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;

    vhdx_assert_commit_locked(s);
    if (!qatomic_read(&s->header_unsure)) {
        return 0;
    }
    return vhdx_header_verify(bs) ?: vhdx_header_update(bs, &s->header, 1);
}

int coroutine_fn vhdx_header_verify(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    uint8_t *buf = qemu_blockalign(bs->file->bs, VHDX_HEADER_SIZE);
    VHDXHeader found;
    int ret;

    vhdx_assert_commit_locked(s);
    ret = vhdx_file_pread(bs, VHDX_HEADER_OFFSET(s->header_copy),
                          VHDX_HEADER_SIZE, buf);
    if (ret == 0 && (!vhdx_header_decode(buf, &found) ||
                     found.sequence != s->header.sequence ||
                     !vhdx_guid_equal(&found.file_write_guid,
                                      &s->header.file_write_guid))) {
        vhdx_change_latch(bs, "another program has written to it");
        ret = -EIO;
    }
    qemu_vfree(buf);
    return ret;
}
