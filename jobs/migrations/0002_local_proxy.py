"""The proxy that every console has: this machine."""

from django.db import migrations


def add_local(apps, schema_editor):
    apps.get_model("jobs", "Proxy").objects.get_or_create(cluster="local", defaults={"name": "This machine"})


class Migration(migrations.Migration):
    dependencies = [("jobs", "0001_initial")]
    operations = [migrations.RunPython(add_local, migrations.RunPython.noop)]
