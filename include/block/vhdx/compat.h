/*
 * VHDX: one source for several QEMU versions
 *
 * The driver is written to the block layer's newest names.  Here, and nowhere
 * else, older versions get them.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_COMPAT_H
#define BLOCK_VHDX_COMPAT_H

#include "block/block_int.h"

/* 10.0 gave include/sysemu/ and include/qapi/qmp/ new names. */
#if __has_include("system/block-backend.h")
#include "system/block-backend.h"
#include "qobject/qdict.h"
#else
#include "sysemu/block-backend.h"
#include "qapi/qmp/qdict.h"
#endif

#define VHDX_QEMU_BEFORE(major, minor) \
    (QEMU_VERSION_MAJOR < (major) || \
     (QEMU_VERSION_MAJOR == (major) && QEMU_VERSION_MINOR < (minor)))

/* 9.0 lets several threads use a node at the same time. */
#define VHDX_MULTI_THREADED (!VHDX_QEMU_BEFORE(9, 0))

/* 8.2 asks how much a driver allocates at once, apart from its cluster size. */
#if VHDX_QEMU_BEFORE(8, 2)
#define vhdx_set_subcluster_size(bdi, size)
#else
#define vhdx_set_subcluster_size(bdi, size) ((bdi)->subcluster_size = (size))
#endif

/* 8.2 calls the driver in a coroutine to change the backing file's name. */
#if VHDX_QEMU_BEFORE(8, 2)
#define bdrv_co_change_backing_file bdrv_change_backing_file
#endif

/* 10.1 made what block_status is asked for a set of flags. */
#if VHDX_QEMU_BEFORE(10, 1)
typedef bool VHDXStatusMode;
#define vhdx_status_wants_zero(mode) (mode)
#else
typedef unsigned int VHDXStatusMode;
#define vhdx_status_wants_zero(mode) ((mode) & BDRV_WANT_ZERO)
#endif

/* 10.2 asks whether a file name may begin with a protocol. */
#if VHDX_QEMU_BEFORE(8, 0)
#define vhdx_create_file(filename, opts, errp) \
    bdrv_create_file(filename, opts, errp)
#elif VHDX_QEMU_BEFORE(10, 2)
#define vhdx_create_file(filename, opts, errp) \
    bdrv_co_create_file(filename, opts, errp)
#else
#define vhdx_create_file(filename, opts, errp) \
    bdrv_co_create_file(filename, opts, true, errp)
#endif

/* 10.2 leaves it to callers to drain and lock before they change a graph. */
#if VHDX_QEMU_BEFORE(10, 2)
#define bdrv_graph_wrlock_drained()
#define bdrv_graph_wrunlock()
#endif

#if VHDX_QEMU_BEFORE(8, 0)

/* 8.0 locks the graph ... */
#define GRAPH_RDLOCK
#define GRAPH_UNLOCKED
#define GRAPH_RDLOCK_GUARD()
#define GRAPH_RDLOCK_GUARD_MAINLOOP()
#define bdrv_graph_co_rdlock()
#define bdrv_graph_co_rdunlock()

/* ... marks what runs both in and outside of coroutines ... */
#define coroutine_mixed_fn

/* ... has coroutine forms of what could only be mixed before ... */
#define BLKDBG_CO_EVENT             BLKDBG_EVENT
#define bdrv_co_get_allocated_file_size bdrv_get_allocated_file_size
#define bdrv_co_get_info            bdrv_get_info
#define bdrv_co_getlength           bdrv_getlength
#define bdrv_co_block_status(...)   bdrv_block_status(__VA_ARGS__)
#define bdrv_co_block_status_above(...) bdrv_block_status_above(__VA_ARGS__)
#define bdrv_co_open                bdrv_open
#define bdrv_co_open_blockdev_ref   bdrv_open_blockdev_ref
#define bdrv_co_unref               bdrv_unref
#define bdrv_co_refresh_total_sectors refresh_total_sectors
#define blk_co_new_with_bs          blk_new_with_bs
#define blk_co_unref                blk_unref
#define blk_co_getlength            blk_getlength

/* ... and lets an optional string or struct be NULL. */
#define vhdx_qapi_str(obj, member)  ((obj)->has_##member ? (obj)->member : NULL)
#define vhdx_qapi_has(obj, member)  ((obj)->has_##member = (obj)->member)
#define vhdx_send_corrupted(device, node, message) \
    qapi_event_send_block_image_corrupted(device, (node) != NULL, node, \
                                          message, false, 0, false, 0, false)

#else
#define vhdx_qapi_str(obj, member)  ((obj)->member)
#define vhdx_qapi_has(obj, member)
#define vhdx_send_corrupted(device, node, message) \
    qapi_event_send_block_image_corrupted(device, node, message, false, 0, \
                                          false, 0, false)
#endif

#endif
