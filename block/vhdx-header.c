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
 * SPDX-License-Identifier: LGPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/lockable.h"
#include "qemu/memalign.h"
#include "block/vhdx.h"

int coroutine_fn vhdx_header_load(BlockDriverState *bs, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    g_autofree uint8_t *buf = g_malloc(VHDX_HEADER_SIZE);
    VHDXHeader headers[2];
    bool valid[2];

    for (int i = 0; i < 2; i++) {
        int ret = bdrv_co_pread(bs->file, VHDX_HEADER_OFFSET(i),
                                VHDX_HEADER_SIZE, buf, 0);
        if (ret < 0) {
            error_setg_errno(errp, -ret, "Could not read VHDX header %d",
                             i + 1);
            return ret;
        }
        valid[i] = vhdx_header_decode(buf, &headers[i]);
        s->mend_header[i] = !valid[i];
    }

    s->header_copy = vhdx_header_choose(headers, valid, errp);
    if (s->header_copy < 0) {
        return -EINVAL;
    }
    s->header = headers[s->header_copy];
    return vhdx_header_check(&s->header, errp);
}

int coroutine_fn vhdx_header_update(BlockDriverState *bs,
                                    const VHDXHeader *header, int copies)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXHeader next = *header;
    uint8_t *buf = qemu_blockalign(bs->file->bs, VHDX_HEADER_SIZE);
    int ret = 0;

    for (int i = 0; i < copies; i++) {
        int copy = !s->header_copy;

        next.sequence = s->header.sequence + 1;
        vhdx_header_encode(&next, buf);
        ret = bdrv_co_pwrite(bs->file, VHDX_HEADER_OFFSET(copy),
                             VHDX_HEADER_SIZE, buf, 0);
        if (ret == 0) {
            ret = bdrv_co_flush(bs->file->bs);
        }
        if (ret < 0) {
            break;
        }
        /* Requests read the log's place meanwhile, which stays as it is. */
        WITH_QEMU_LOCK_GUARD(&s->lock) {
            s->header.sequence = next.sequence;
            s->header.file_write_guid = next.file_write_guid;
            s->header.data_write_guid = next.data_write_guid;
            s->header.log_guid = next.log_guid;
            s->header.log_version = next.log_version;
        }
        s->header_copy = copy;
        s->mend_header[copy] = false;
    }
    qemu_vfree(buf);
    return ret;
}
