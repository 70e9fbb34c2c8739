"""The table of the throttles' cache, as `createcachetable` would make it."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("backupsite", "0001_initial")]
    operations = [
        migrations.RunSQL(
            [
                'CREATE TABLE "backupsite_cache" ("cache_key" varchar(255) NOT NULL PRIMARY KEY, "value" text NOT NULL, '
                '"expires" timestamp with time zone NOT NULL)',
                'CREATE INDEX "backupsite_cache_expires" ON "backupsite_cache" ("expires")',
            ],
            ['DROP TABLE "backupsite_cache"'],
        ),
    ]
