/*
 * VHDX: the lock of an open image, and who holds it
 *
 * state.h tells what it guards.  Whoever holds it is known, so that functions
 * assert what their callers must hold.  A coroutine never yields with it, so it
 * is a coroutine's as long as it is held, or a thread's outside of coroutines.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_LOCK_H
#define BLOCK_VHDX_LOCK_H

#include "block/vhdx/state.h"

static inline void vhdx_lock_init(BDRVVHDXState *s)
{
    qemu_mutex_init(&s->lock.mutex);
    s->lock.owner = NULL;
}

static inline void vhdx_lock_destroy(BDRVVHDXState *s)
{
    assert(!s->lock.owner);
    qemu_mutex_destroy(&s->lock.mutex);
}

static inline bool vhdx_is_locked(BDRVVHDXState *s)
{
    return qatomic_read(&s->lock.owner) == qemu_coroutine_self();
}

/* lock is held by the caller, or is not. */
#define vhdx_assert_locked(s)       assert(vhdx_is_locked(s))
#define vhdx_assert_unlocked(s)     assert(!vhdx_is_locked(s))

/* commit_lock is held by the caller, or grow_lock. */
#define vhdx_assert_commit_locked(s) \
    qemu_co_mutex_assert_locked(&(s)->commit_lock)
#define vhdx_assert_grow_locked(s) \
    qemu_co_mutex_assert_locked(&(s)->grow_lock)

static inline void vhdx_lock(BDRVVHDXState *s)
{
    Coroutine *self = qemu_coroutine_self();

    /* Or it would wait for itself. */
    assert(qatomic_read(&s->lock.owner) != self);
    qemu_mutex_lock(&s->lock.mutex);
    qatomic_set(&s->lock.owner, self);
}

static inline void vhdx_unlock(BDRVVHDXState *s)
{
    qatomic_set(&s->lock.owner, NULL);
    qemu_mutex_unlock(&s->lock.mutex);
}

/* Wait in @queue, without lock, and take it again. */
static inline void coroutine_fn vhdx_wait(BDRVVHDXState *s, CoQueue *queue)
{
    vhdx_assert_locked(s);
    qatomic_set(&s->lock.owner, NULL);
    qemu_co_queue_wait(queue, &s->lock.mutex);
    qatomic_set(&s->lock.owner, qemu_coroutine_self());
}

/* Hold lock to the end of the block, or in the block that follows. */
typedef struct VHDXLockGuard {
    BDRVVHDXState *s;
} VHDXLockGuard;

static inline VHDXLockGuard *vhdx_guard_lock(VHDXLockGuard *guard)
{
    vhdx_lock(guard->s);
    return guard;
}

static inline void vhdx_guard_unlock(VHDXLockGuard *guard)
{
    if (guard) {
        vhdx_unlock(guard->s);
    }
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC(VHDXLockGuard, vhdx_guard_unlock)

#define VHDX_LOCK_GUARD(s) \
    g_autoptr(VHDXLockGuard) \
    glue(vhdx_guard, __COUNTER__) G_GNUC_UNUSED = \
    vhdx_guard_lock(&(VHDXLockGuard) { s })

#define WITH_VHDX_LOCK_GUARD_(s, var) \
    for (g_autoptr(VHDXLockGuard) var = \
             vhdx_guard_lock(&(VHDXLockGuard) { s }); var; \
         vhdx_guard_unlock(var), var = NULL)

#define WITH_VHDX_LOCK_GUARD(s) \
    WITH_VHDX_LOCK_GUARD_(s, glue(vhdx_guard, __COUNTER__))

#endif
