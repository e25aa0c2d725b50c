/*
 * VHDX unit tests: what has to end the program
 *
 * It is run in a child process, which is a copy of the test as it is now.  What
 * the child prints is kept from the test's own output, and looked at.  No core
 * is written, as the child leaves with an exit status of its own.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef TESTS_UNIT_VHDX_TEST_ABORT_H
#define TESTS_UNIT_VHDX_TEST_ABORT_H

#define CHILD_ABORTED   77
#define CHILD_SECONDS   30

static inline void child_aborts(int sig)
{
    _exit(CHILD_ABORTED);
}

/*
 * Run @func in a child.  Returns its exit status, which is CHILD_ABORTED if it
 * has called abort() and 0 if @func has returned, or -1 where a signal has
 * ended it; @said gets what it has printed.
 */
static inline int child_run(void (*func)(void *opaque), void *opaque,
                            char **said)
{
    const struct sigaction aborts = { .sa_handler = child_aborts };
    GString *text = g_string_new(NULL);
    sigset_t none;
    int fds[2], status;
    char buf[256];
    ssize_t n;
    pid_t pid;

    g_assert_cmpint(pipe(fds), ==, 0);
    pid = fork();
    g_assert_cmpint(pid, >=, 0);
    if (!pid) {
        sigaction(SIGABRT, &aborts, NULL);
        /* QEMU's main loop has blocked SIGALRM. */
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        alarm(CHILD_SECONDS);
        dup2(fds[1], STDOUT_FILENO);
        dup2(fds[1], STDERR_FILENO);
        func(opaque);
        _exit(0);
    }
    close(fds[1]);
    while ((n = read(fds[0], buf, sizeof(buf))) > 0) {
        g_string_append_len(text, buf, n);
    }
    close(fds[0]);
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    *said = g_string_free(text, false);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* @func aborts, and says the words @one and @two. */
static inline void expect_abort(void (*func)(void *opaque), void *opaque,
                                const char *one, const char *two)
{
    g_autofree char *said = NULL;
    int status = child_run(func, opaque, &said);

    if (status != CHILD_ABORTED || !strstr(said, one) || !strstr(said, two)) {
        g_test_message("ends with %d, where \"%s\" of \"%s\" should have "
                       "ended it: %s", status, one, two, said);
        g_test_fail();
    }
}

/* @func does not. */
static inline void expect_return(void (*func)(void *opaque), void *opaque)
{
    g_autofree char *said = NULL;
    int status = child_run(func, opaque, &said);

    if (status != 0) {
        g_test_message("ends with %d: %s", status, said);
        g_test_fail();
    }
}

#endif
