/*
 * VHDX: what the QMP command x-blockdev-amend changes
 *
 * The command is a job, whose coroutine calls the driver with the graph locked
 * and waits for it to end.  It knows nothing of progress, or how to pause.  But
 * the coroutine is the job's, so the driver finds the job by it, and does all
 * of that itself, between batches.
 *
 * The node is not a child of the job's, so nothing keeps it from being drained
 * and changed.  Therefore a batch counts as a request in flight, which a drain
 * waits for, and none begins in a drained section.  The graph is not locked
 * while the job waits, or else a command that changes it would wait for the
 * job.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-types-block-core.h"
#include "qemu/job.h"
#include "block/vhdx/amend.h"
#include "block/vhdx/amend-job.h"
#include "block/vhdx/begin.h"
#include "block/vhdx/compat.h"

/* Whether a drained section has ended is looked at so often. */
#define DRAINED_NS      (10 * SCALE_MS)

/* So long requests are held off while others end that are under way. */
#define HOLD_NS         (20 * SCALE_MS)

typedef struct AmendJob {
    Job *job;
    AioContext *ctx;                /* of the job, while it is in another */
    int64_t told;                   /* progress */
} AmendJob;

/* The job whose coroutine this is: there is one, as only a job amends. */
static Job *own_job(void)
{
    Job *job = NULL;
    JOB_LOCK_GUARD();

    do {
        job = job_next_locked(job);
        assert(job);
    } while (job->co != qemu_coroutine_self());
    return job;
}

static bool is_drained(BlockDriverState *bs)
{
    return qatomic_read(&bs->quiesce_counter) > 0;
}

/*
 * A batch may begin in a moment: be a request of @bs, but not in a drain.
 * Returns -ECANCELED if it must not, and is a request all the same.
 */
static int coroutine_fn GRAPH_RDLOCK
amend_enter(BlockDriverState *bs, AmendJob *j)
{
    j->ctx = bdrv_co_enter(bs);
    while (is_drained(bs) && !job_is_cancelled(j->job)) {
        bdrv_co_leave(bs, j->ctx);
        bdrv_graph_co_rdunlock();
        job_sleep_ns(j->job, DRAINED_NS);
        bdrv_graph_co_rdlock();
        j->ctx = bdrv_co_enter(bs);
    }
    return job_is_cancelled(j->job) ? -ECANCELED : 0;
}

static int coroutine_fn GRAPH_RDLOCK
amend_pause(BlockDriverState *bs, void *opaque)
{
    AmendJob *j = opaque;

    bdrv_co_leave(bs, j->ctx);
    bdrv_graph_co_rdunlock();
    /* Here it is paused, if that is wanted, and cancelled. */
    job_sleep_ns(j->job, 0);
    bdrv_graph_co_rdlock();
    return amend_enter(bs, j);
}

static bool coroutine_fn amend_stop(BlockDriverState *bs, void *opaque)
{
    AmendJob *j = opaque;

    return is_drained(bs) || job_is_cancelled(j->job);
}

/* The command has one step of its own, at the end. */
static void amend_status(BlockDriverState *bs, int64_t offset, int64_t total,
                         void *opaque)
{
    AmendJob *j = opaque;

    job_progress_update(j->job, offset - j->told);
    job_progress_set_remaining(j->job, total - offset + 1);
    j->told = offset;
}

int vhdx_amend_pre_run(BlockDriverState *bs, Error **errp)
{
    return vhdx_begin_check(bs, errp);
}

static int amend_parse(const BlockdevAmendOptionsVhdx *o, VHDXAmend *a,
                       Error **errp)
{
    uint64_t sector = o->physical_sector_size, log_size = o->log_size;

    a->compact = o->has_compact;
    a->zeroes = o->has_compact && o->compact == VHDX_COMPACT_ZEROES;
    a->prealloc = o->has_preallocation ? o->preallocation : PREALLOC_MODE_OFF;
    if (a->prealloc == PREALLOC_MODE_FULL) {
        error_setg(errp, "Preallocation mode 'full' takes longer than requests "
                   "can wait for: 'qemu-img amend' has it");
        return -ENOTSUP;
    }
    return vhdx_amend_take(a, o->has_subformat ?
                           BlockdevVhdxSubformat_str(o->subformat) : NULL,
                           vhdx_qapi_str(o, disk_id),
                           o->has_physical_sector_size ? &sector : NULL,
                           o->has_log_size ? &log_size : NULL, errp);
}

int coroutine_fn vhdx_co_amend(BlockDriverState *bs, BlockdevAmendOptions *opts,
                               bool force, Error **errp)
{
    AmendJob j = { .job = own_job() };
    VHDXCompactUser user = {
        .pause = amend_pause,
        .move = {
            .stop = amend_stop,
            .opaque = &j,
            .hold_ns = HOLD_NS,
        },
        .status = amend_status,
        .opaque = &j,
    };
    VHDXAmend a = {
        .status_cb = amend_status,
        .cb_opaque = &j,
        .user = &user,
    };
    int ret = amend_parse(&opts->u.vhdx, &a, errp);

    if (ret < 0) {
        return ret;
    }
    ret = amend_enter(bs, &j);
    if (ret == 0) {
        ret = vhdx_begin_check(bs, errp) ?: vhdx_amend_change(bs, &a, errp);
    }
    bdrv_co_leave(bs, j.ctx);
    return ret;
}
