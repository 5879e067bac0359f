BEGIN TRANSACTION;
CREATE TABLE candidates (
	hash VARCHAR(64) NOT NULL, 
	canonical TEXT NOT NULL, 
	name TEXT NOT NULL, 
	parameters BIGINT NOT NULL, 
	CONSTRAINT pk_candidates PRIMARY KEY (hash)
);
INSERT INTO "candidates" VALUES('ab12ab12ab12ab12ab12ab12ab12ab12ab12ab12ab12ab12ab12ab12ab12ab12','{"width":64}','gdn4-ab12ab12',1000);
INSERT INTO "candidates" VALUES('cd34cd34cd34cd34cd34cd34cd34cd34cd34cd34cd34cd34cd34cd34cd34cd34','{"width":64}','gdn4-cd34cd34',1000);
CREATE TABLE events (
	id INTEGER NOT NULL, 
	study_id BIGINT NOT NULL, 
	time DOUBLE NOT NULL, 
	trial BIGINT, 
	kind VARCHAR(32) NOT NULL, 
	rung BIGINT, 
	rank BIGINT, 
	message TEXT NOT NULL, 
	CONSTRAINT pk_events PRIMARY KEY (id), 
	CONSTRAINT fk_events_study_id FOREIGN KEY(study_id) REFERENCES studies (id)
);
INSERT INTO "events" VALUES(1,1,1700000000.0,0,'waiting',NULL,NULL,'proposed by random');
INSERT INTO "events" VALUES(2,1,1700000000.0,0,'promote',0,0,'rank 0 of 4');
INSERT INTO "events" VALUES(3,1,1700000000.0,0,'finished',NULL,NULL,'');
INSERT INTO "events" VALUES(4,1,1700000000.0,1,'waiting',NULL,NULL,'proposed by evolution');
INSERT INTO "events" VALUES(5,1,1700000000.0,1,'failed',NULL,NULL,'out of memory: 8 GiB');
CREATE TABLE hybridsearch_schema (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT hybridsearch_schema_pkc PRIMARY KEY (version_num)
);
INSERT INTO "hybridsearch_schema" VALUES('0001');
CREATE TABLE reports (
	study_id BIGINT NOT NULL, 
	trial BIGINT NOT NULL, 
	rung BIGINT NOT NULL, 
	time DOUBLE NOT NULL, 
	steps BIGINT NOT NULL, 
	metrics JSON NOT NULL, 
	replicates JSON NOT NULL, 
	measurements JSON NOT NULL, 
	seconds DOUBLE NOT NULL, 
	device TEXT NOT NULL, 
	peak_bytes BIGINT NOT NULL, 
	CONSTRAINT pk_reports PRIMARY KEY (study_id, trial, rung), 
	CONSTRAINT fk_reports_study_id FOREIGN KEY(study_id, trial) REFERENCES trials (study_id, number)
);
INSERT INTO "reports" VALUES(1,0,0,1700000000.0,250,'{"recall":0.3333333333333333}','{"recall":[0.30000000000000004,0.25]}','[]',1.5,'cpu',0);
INSERT INTO "reports" VALUES(1,0,1,1700000000.0,500,'{"recall":0.3333333333333333}','{"recall":[0.30000000000000004,0.25]}','[{"phase":"decode","context":4096,"batch":8,"tokens_per_second":1.5,"low":1.0,"high":2.0,"repeats":7}]',1.5,'cpu',0);
CREATE TABLE studies (
	id INTEGER NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	created DOUBLE NOT NULL, 
	settings TEXT NOT NULL, 
	space TEXT NOT NULL, 
	seed BIGINT NOT NULL, 
	versions JSON NOT NULL, 
	evaluation_digest VARCHAR(64) NOT NULL, 
	elapsed DOUBLE NOT NULL, 
	owner TEXT, 
	heartbeat DOUBLE, 
	CONSTRAINT pk_studies PRIMARY KEY (id), 
	CONSTRAINT uq_studies_name UNIQUE (name)
);
INSERT INTO "studies" VALUES(1,'recall',1700000000.0,'{"study":"recall"}','{}',7,'{"hybridsearch":"0.1.0"}','dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd',42.5,NULL,1700000000.0);
CREATE TABLE trials (
	study_id BIGINT NOT NULL, 
	number BIGINT NOT NULL, 
	candidate_hash VARCHAR(64) NOT NULL, 
	state_bytes BIGINT NOT NULL, 
	flops_per_token BIGINT NOT NULL, 
	sampler TEXT NOT NULL, 
	parents JSON NOT NULL, 
	seed BIGINT NOT NULL, 
	control TEXT, 
	note TEXT NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	reason VARCHAR(32), 
	message TEXT NOT NULL, 
	created DOUBLE NOT NULL, 
	started DOUBLE, 
	ended DOUBLE, 
	CONSTRAINT pk_trials PRIMARY KEY (study_id, number), 
	CONSTRAINT fk_trials_study_id FOREIGN KEY(study_id) REFERENCES studies (id), 
	CONSTRAINT fk_trials_candidate_hash FOREIGN KEY(candidate_hash) REFERENCES candidates (hash)
);
INSERT INTO "trials" VALUES(1,0,'ab12ab12ab12ab12ab12ab12ab12ab12ab12ab12ab12ab12ab12ab12ab12ab12',2000,3000,'random','[]',11,NULL,'','finished',NULL,'',1700000000.0,NULL,1700000000.0);
INSERT INTO "trials" VALUES(1,1,'cd34cd34cd34cd34cd34cd34cd34cd34cd34cd34cd34cd34cd34cd34cd34cd34',2000,3000,'evolution','[0]',12,NULL,'','failed','out of memory','8 GiB',1700000000.0,NULL,1700000000.0);
CREATE INDEX ix_trials_study_id_state ON trials (study_id, state);
CREATE INDEX ix_trials_candidate_hash ON trials (candidate_hash);
CREATE INDEX ix_events_study_id_id ON events (study_id, id);
COMMIT;
