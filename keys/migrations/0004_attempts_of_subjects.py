"""Wrong secrets are counted for any subject, not only for password records.

The rows of the last minutes are not carried over, in either direction: at worst a block ends early, once.
"""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("keys", "0003_key_records")]

    operations = [
        migrations.DeleteModel(name="VerifyAttempt"),
        migrations.CreateModel(
            name="VerifyAttempt",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("subject", models.UUIDField()),
                ("at", models.DateTimeField(auto_now_add=True)),
            ],
            options={"indexes": [models.Index(fields=["subject", "at"], name="attempts_of_a_subject")]},
        ),
    ]
