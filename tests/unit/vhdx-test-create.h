/*
 * VHDX unit tests: making an image on a node, as blockdev-create does
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef TESTS_UNIT_VHDX_TEST_CREATE_H
#define TESTS_UNIT_VHDX_TEST_CREATE_H

#include "qapi/error.h"
#include "block/vhdx/compat.h"

typedef struct BlockdevCreate {
    BlockdevCreateOptions *options;
    Error **errp;
    int ret;
} BlockdevCreate;

static inline void coroutine_fn blockdev_create_entry(void *opaque)
{
    BlockdevCreate *c = opaque;

    c->ret = bdrv_find_format("vhdx")->bdrv_co_create(c->options, c->errp);
}

/* Returns 0 or -errno with @errp set. */
static inline int blockdev_create(BlockdevCreateOptions *options, Error **errp)
{
    BlockdevCreate c = {
        .options = options,
        .errp = errp,
        .ret = -EINPROGRESS,
    };

    qemu_coroutine_enter(qemu_coroutine_create(blockdev_create_entry, &c));
    while (c.ret == -EINPROGRESS) {
        aio_poll(qemu_get_aio_context(), true);
    }
    return c.ret;
}

#endif
