/*
 * policy/combine.h - pg_combinebackup: base backups whose blocks may be put together.
 */
#ifndef TDE_INTERPOSE_POLICY_COMBINE_H
#define TDE_INTERPOSE_POLICY_COMBINE_H

/*
 * Compare the key maps of the backups among this program's arguments, and end the program when a
 * block of one would be noise in another.  No keys are needed.
 */
void tde_policy_combine_require_same_keys(void);

#endif
