/*
 * VHDX crash test: the image that guests use
 *
 * The driver makes it, on the workload's kind of node and of a shape that the
 * seed chooses.  For some workloads all blocks are then made present, with gaps
 * between them, or to keep places with old data.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-types-block-core.h"
#include "qemu/bswap.h"
#include "qemu/main-loop.h"
#include "vhdx-crash.h"

typedef struct CreateCall {
    BlockdevCreateOptions opts;
    BlockdevRef file;
    Error *err;
    int ret;
    bool done;
} CreateCall;

static void coroutine_fn create_entry(void *opaque)
{
    CreateCall *call = opaque;

    call->ret = bdrv_find_format("vhdx")->bdrv_co_create(&call->opts,
                                                         &call->err);
    call->done = true;
}

static void shape_choose(const CrashWorkload *w, CrashShape *shape,
                         CrashRng *rng)
{
    unsigned choices = 0;

    while (choices < ARRAY_SIZE(w->block_mib) && w->block_mib[choices]) {
        choices++;
    }
    *shape = (CrashShape) {
        .disk_size = w->disk_mib * MiB,
        .block_size = w->block_mib[rng_below(rng, choices)] * MiB,
        .sector_size = !w->only_512 && rng_chance(rng, 30) ? 4096 : 512,
    };
    if (w->disk_kib) {
        shape->disk_size = w->disk_kib * KiB;
    } else if (rng_chance(rng, 50) && w->disk_mib < 1024) {
        /* The last block is not whole. */
        shape->disk_size += 4096 * (1 + rng_below(rng, 255));
    }
}

/* Let all blocks be present, zeros, with some MiB free before each. */
static void blocks_spread(CrashImage *img, const CrashReader *reader,
                          const CrashShape *shape, CrashRng *rng)
{
    uint64_t at = shape->payload;

    for (uint64_t i = 0; i * shape->block_size < shape->disk_size; i++) {
        uint64_t entry;

        at += rng_below(rng, shape->block_size / MiB) * MiB;
        entry = cpu_to_le64(at | 6);
        /* They all lie in the first chunk. */
        image_write(img, reader->bat_offset + i * sizeof(entry), sizeof(entry),
                    (uint8_t *)&entry);
        at += shape->block_size;
    }
    image_truncate(img, at);
}

/* The length of the node that the image is made on. */
static uint64_t room_choose(const CrashWorkload *w, CrashRng *rng)
{
    uint64_t room = w->room_mib * MiB;

    if (w->node.fixed_size && rng_chance(rng, 50)) {
        /* It is no multiple of what the file is used by. */
        room += CRASH_SECTOR * (1 + rng_below(rng, MiB / CRASH_SECTOR - 1));
    }
    return room;
}

/* Let each block keep a place, in some of which there is old data. */
static void blocks_keep(CrashImage *img, const CrashReader *reader,
                        const CrashShape *shape, CrashRng *rng)
{
    uint64_t at = shape->payload;

    for (uint64_t i = 0; i * shape->block_size < shape->disk_size; i++) {
        uint64_t entry = cpu_to_le64(at | (rng_chance(rng, 70) ? 3 : 1));

        image_write(img, reader->bat_offset + i * sizeof(entry), sizeof(entry),
                    (uint8_t *)&entry);
        if (rng_chance(rng, 70)) {
            image_spoil(img, at, shape->block_size);
        }
        at += shape->block_size;
    }
    if (img->size < at) {
        image_truncate(img, at);
    }
}

/* Let the new image @img be as the workload wants it. */
static void image_arrange(CrashRun *run, CrashImage *img, CrashShape *shape,
                          CrashRng *rng)
{
    const CrashWorkload *w = run->workload;
    char *why;
    CrashReader *reader = reader_new(img, NULL, &why);

    if (!reader) {
        g_ptr_array_add(run->wrong, why);
        return;
    }
    shape->payload = MAX(reader->bat_offset + reader->bat_length,
                         reader->meta_offset + reader->meta_length);
    if (w->gaps) {
        blocks_spread(img, reader, shape, rng);
    }
    if (w->kept) {
        blocks_keep(img, reader, shape, rng);
    }
    if (w->child) {
        child_make(img, reader, w, shape, rng);
    }
    reader_free(reader);
}

CrashRun *guest_create(const CrashWorkload *w, CrashShape *shape,
                       CrashRng *rng)
{
    bool old = w->node.fixed_size || w->node.no_zero_growth;
    CrashRun *run = run_new(w, image_new(room_choose(w, rng), old));
    CrashDisk *disk = disk_new(image_copy(run->base), &run->node,
                               rng_next(rng));
    CreateCall call = { .done = false };
    BlockdevCreateOptionsVhdx *o = &call.opts.u.vhdx;

    shape_choose(w, shape, rng);
    disk->instant = !w->create;
    disk->payload = 4 * MiB;
    call.file = (BlockdevRef) {
        .type = QTYPE_QSTRING,
        .u.reference = (char *)"disk",
    };
    call.opts.driver = BLOCKDEV_DRIVER_VHDX;
    *o = (BlockdevCreateOptionsVhdx) {
        .file = &call.file,
        .has_size = true,
        .size = shape->disk_size,
        .has_block_size = true,
        .block_size = shape->block_size,
        .has_logical_sector_size = true,
        .logical_sector_size = shape->sector_size,
        .has_block_state_zero = true,
        .block_state_zero = w->state_zero,
        .has_subformat = true,
        .subformat = w->fixed ? BLOCKDEV_VHDX_SUBFORMAT_FIXED :
                     BLOCKDEV_VHDX_SUBFORMAT_DYNAMIC,
    };
    qemu_coroutine_enter(qemu_coroutine_create(create_entry, &call));
    while (!call.done) {
        aio_poll(qemu_get_aio_context(), true);
    }
    if (call.ret < 0) {
        run_wrong(run, "can't be created: %s", error_get_pretty(call.err));
        error_free(call.err);
    } else {
        image_arrange(run, disk->view, shape, rng);
    }
    run->model = model_new(NULL, NULL, shape);
    run->model->first_size = shape->disk_size;
    run->payload = shape->payload;
    run_end(run, disk);
    model_settle(run->model);
    return run;
}
