/*
 * fault.c
 *	  What happens at a fault point (fault.h); empty in an ordinary build.
 *
 * Works in any of our processes, in a transaction or not, and in the middle of
 * decoding.
 */
#include "incbatch.h"

#ifdef INCBATCH_FAULTS

#include <signal.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/wait_event.h"

bool		ib_fault_is_set = false;

static char *setting = NULL;
static uint64 times_set = 0;
static int	times_met = 0;		/* since then */

/*
 * Whoever has read the configuration says so: a test cannot know otherwise when
 * a signal has arrived, and what it does next could be faster.
 */
static void
note_setting(const char *value, void *extra)
{
	ib_fault_is_set = value != NULL && *value != '\0';
	times_set++;
	times_met = 0;
	if (IsBackgroundWorker)
		ereport(LOG,
				errmsg("incbatch.fault is \"%s\" in process %d", value ? value : "", MyProcPid));
}

void
ib_fault_define_setting(void)
{
	DefineCustomStringVariable("incbatch.fault",
							   "Fault to inject: point:action[:nth].",
							   "Only in builds with -DINCBATCH_FAULTS.",
							   &setting, "", PGC_SIGHUP, GUC_NOT_IN_SAMPLE,
							   NULL, note_setting, NULL);
}

/* Wait until the setting is another, which may be told in mid-transaction. */
static void
wait_for_setting(const char *point)
{
	uint64		before = times_set;
	char	   *text = psprintf("waiting at fault point %s", point);

	pgstat_report_activity(STATE_RUNNING, text);
	pfree(text);
	while (times_set == before)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH, -1, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
	}
	/* it may have been set for another reason, too */
	SetLatch(MyLatch);
}

static void
act(const char *point, const char *action)
{
	int			level = strcmp(action, "error") == 0 ? ERROR :
		strcmp(action, "fatal") == 0 ? FATAL :
		strcmp(action, "panic") == 0 ? PANIC : 0;

	ereport(LOG,
			errmsg("incbatch is at fault point %s: %s", point, action));
	if (strcmp(action, "kill9") == 0)
		(void) kill(MyProcPid, SIGKILL);
	else if (strcmp(action, "wait") == 0)
		wait_for_setting(point);
	else if (level != 0)
		ereport(level,
				errcode(ERRCODE_SYSTEM_ERROR),
				errmsg("fault at point %s", point));
}

/* A process has come to a point, and there is a setting. */
void
ib_fault(const char *name)
{
	char		point[64];
	char		action[16];
	int			nth = 1;

	if (sscanf(setting, "%63[^:]:%15[^:]:%d", point, action, &nth) < 2 ||
		pg_strcasecmp(point, name) != 0 || ++times_met != nth)
		return;
	act(point, action);
}

#endif							/* INCBATCH_FAULTS */
