BEGIN TRANSACTION;
CREATE TABLE attempts (
        id INTEGER PRIMARY KEY AUTOINCREMENT, state INTEGER NOT NULL, scope TEXT NOT NULL, day TEXT NOT NULL,
        at REAL NOT NULL, lease REAL NOT NULL, task TEXT NOT NULL, model TEXT NOT NULL, provider_model TEXT NOT NULL,
        amount INTEGER, estimate INTEGER, outcome TEXT, error TEXT, prompt_tokens INTEGER NOT NULL DEFAULT 0,
        completion_tokens INTEGER NOT NULL DEFAULT 0, cached_tokens INTEGER NOT NULL DEFAULT 0,
        cache_write_tokens INTEGER NOT NULL DEFAULT 0, reasoning_tokens INTEGER NOT NULL DEFAULT 0,
        estimated INTEGER NOT NULL DEFAULT 0, latency REAL NOT NULL DEFAULT 0);
INSERT INTO "attempts" VALUES(1,2,'/srv/project/llm.yaml','2026-08-22',1787400000.0,1787400900.0,'t','m','openai/m',200000000000,NULL,'answer',NULL,7,3,0,0,0,0,0.0);
INSERT INTO "attempts" VALUES(2,1,'/srv/project/llm.yaml','2026-08-22',1787400000.0,1787400900.0,'t','m','openai/m',400000000000,NULL,NULL,NULL,0,0,0,0,0,0,0.0);
INSERT INTO "attempts" VALUES(3,0,'/srv/project/llm.yaml','2026-08-22',1787400000.0,1787400060.0,'t','m','openai/m',250000000000,NULL,NULL,NULL,0,0,0,0,0,0,0.0);
CREATE TABLE balances (
        scope TEXT NOT NULL, period TEXT NOT NULL, task TEXT NOT NULL, spent INTEGER NOT NULL, calls INTEGER NOT NULL,
        PRIMARY KEY (scope, period, task)) WITHOUT ROWID;
INSERT INTO "balances" VALUES('/srv/project/llm.yaml','D2026-08-22','t',200000000000,1);
INSERT INTO "balances" VALUES('/srv/project/llm.yaml','M2026-08','t',200000000000,1);
INSERT INTO "balances" VALUES('/srv/project/llm.yaml','T','t',200000000000,1);
CREATE TABLE daily (
        scope TEXT NOT NULL, day TEXT NOT NULL, task TEXT NOT NULL, model TEXT NOT NULL,
        calls INTEGER NOT NULL DEFAULT 0, unpriced INTEGER NOT NULL DEFAULT 0, prompt_tokens INTEGER NOT NULL DEFAULT 0,
        completion_tokens INTEGER NOT NULL DEFAULT 0, cost INTEGER NOT NULL DEFAULT 0, hits INTEGER NOT NULL DEFAULT 0,
        saved_by_cache INTEGER NOT NULL DEFAULT 0, saved_by_routing INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (scope, day, task, model)) WITHOUT ROWID;
INSERT INTO "daily" VALUES('/srv/project/llm.yaml','2026-08-22','t','m',0,0,0,0,0,1,100000000000,0);
CREATE INDEX open_attempts ON attempts (scope) WHERE state < 2;
CREATE TRIGGER book AFTER UPDATE OF state, amount ON attempts WHEN NEW.state = 2 BEGIN
        INSERT INTO balances (scope, period, task, spent, calls)
        SELECT NEW.scope, period, NEW.task,
               ifnull(NEW.amount, 0) - CASE OLD.state WHEN 2 THEN ifnull(OLD.amount, 0) ELSE 0 END, OLD.state < 2
        FROM (SELECT 'D' || NEW.day AS period UNION ALL SELECT 'M' || substr(NEW.day, 1, 7) UNION ALL SELECT 'T')
        WHERE true
        ON CONFLICT DO UPDATE SET spent = spent + excluded.spent, calls = calls + excluded.calls;
    END;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('attempts',3);
COMMIT;
PRAGMA user_version = 1;
